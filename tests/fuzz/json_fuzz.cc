#include <limits>

#include "files/json.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {
namespace {

int depth_of(const nlohmann::json& value) {
  int deepest = 0;
  for (const nlohmann::json& child : value) {
    if (value.is_structured()) deepest = std::max(deepest, depth_of(child));
  }
  return value.is_structured() ? deepest + 1 : 0;
}

// The readers of members either give what stands there or an error.
void check_readers(const nlohmann::json& object) {
  for (const std::string_view key : {"a", "hidden_size"}) {
    const auto integer = files::json_get<int64_t>(object, key, "fuzz");
    const auto positive = files::json_get_positive(object, key, "fuzz");
    const auto number = files::json_get<double>(object, key, "fuzz");
    const auto text = files::json_get<std::string>(object, key, "fuzz");
    const auto flag = files::json_get_or<bool>(object, key, true, "fuzz");
    if (integer.ok()) CHECK(object.at(key) == *integer, "{}", *integer);
    CHECK(!integer.ok() || number.ok(), "an integer is a number");
    CHECK(positive.ok() == (integer.ok() && *integer >= 1), "a positive integer");
    if (text.ok()) CHECK(object.at(key) == *text && !flag.ok(), "a string");
  }
}

}  // namespace

void check_input(std::string_view input) {
  const auto document = files::parse_json(input, "fuzz.json");
  if (!document.ok()) {
    CHECK(!document.error().message.empty(), "an error says something");
    return;
  }
  CHECK(depth_of(*document) <= files::JsonLimits().max_depth, "nested too deep");
  check_readers(*document);
  const std::string text = document->dump();
  const auto again = files::parse_json(text, "again.json");
  CHECK(again.ok() && *again == *document, "{} does not read as it was written", text);
}

}  // namespace fourfold::fuzz
