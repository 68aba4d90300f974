#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "grammar/graph.h"
#include "grammar/token_table.h"
#include "text/token_constraint.h"

namespace fourfold::serve {

/// Makes what answers of one model are constrained to, and remembers the latest, so that requests
/// with the same schema share what has been found out about it. Used from many threads.
class Constraints {
 public:
  using Pointer = std::shared_ptr<const text::TokenConstraint>;

  explicit Constraints(std::shared_ptr<const grammar::TokenTable> tokens)
      : tokens_(std::move(tokens)) {}

  /// Errors: those of grammar::schema_graph() and its like, and of Constraint::create().
  base::Result<Pointer> json_schema(const nlohmann::ordered_json& schema);
  base::Result<Pointer> json_object();
  base::Result<Pointer> regex(const std::string& pattern);
  base::Result<Pointer> choice(const std::vector<std::string>& choices);

 private:
  template <typename Make>
  base::Result<Pointer> get(std::string key, Make make);

  struct Entry {
    std::string key;
    Pointer constraint;
  };
  std::shared_ptr<const grammar::TokenTable> tokens_;
  std::mutex mutex_;
  std::list<Entry> latest_;  ///< the latest first
};

}  // namespace fourfold::serve
