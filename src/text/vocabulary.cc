#include "text/vocabulary.h"

#include "files/printable.h"

namespace fourfold::text {

base::Status Vocabulary::add(int32_t id, std::string piece, std::string bytes, bool special) {
  if (id < 0 || id >= max_ids_) {
    return base::fail("the token '{}' has the id {}, expected 0 to {}", files::printable(piece), id,
                      max_ids_ - 1);
  }
  if (has(id)) {
    return base::fail("the tokens '{}' and '{}' both have the id {}",
                      files::printable(at(id).piece), files::printable(piece), id);
  }
  if (id >= size()) tokens_.resize(static_cast<size_t>(id) + 1);
  ids_.add(piece, id);
  tokens_[static_cast<size_t>(id)] = {std::move(piece), std::move(bytes), true, special};
  return {};
}

}  // namespace fourfold::text
