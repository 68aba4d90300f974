#pragma once

#include <memory>
#include <mutex>

#include "base/result.h"
#include "grammar/graph.h"
#include "grammar/token_table.h"
#include "text/token_constraint.h"

namespace fourfold::grammar {

/// Outputs whose text belongs to the language of a graph: at every place only tokens that can be
/// gone on from to such a text, and an end token where the text is one. All outputs share what is
/// found out, in 4 MiB and what one more mask takes.
class Constraint final : public text::TokenConstraint,
                         public std::enable_shared_from_this<Constraint> {
 public:
  /// Errors: there is no end token; those of Walk::allowed() at the beginning.
  static base::Result<std::shared_ptr<const Constraint>> create(
      Graph graph, std::shared_ptr<const TokenTable> tokens);

  std::unique_ptr<Walk> begin() const override;

 private:
  struct Cache;
  class TextWalk;

  Constraint(Graph graph, std::shared_ptr<const TokenTable> tokens);
  std::shared_ptr<Cache> cache() const;
  std::shared_ptr<Cache> renew(const std::shared_ptr<Cache>& full) const;

  std::shared_ptr<const Graph> graph_;
  std::shared_ptr<const TokenTable> tokens_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<Cache> cache_;  ///< for walks that begin
};

}  // namespace fourfold::grammar
