#pragma once

#include <string_view>

namespace fourfold::fuzz {

/// What a target defines: gives any bytes to a parser and CHECKs what must hold of those that it
/// accepts. Called once for each input; fuzz_main.cc holds it to the contract (README.md).
void check_input(std::string_view input);

/// Takes the bytes up to the first `separator` off the front of `rest`, the separator with them;
/// all of them where there is none.
inline std::string_view take_until(std::string_view* rest, char separator) {
  const size_t end = rest->find(separator);
  const std::string_view taken = rest->substr(0, end);
  rest->remove_prefix(end == std::string_view::npos ? rest->size() : end + 1);
  return taken;
}

}  // namespace fourfold::fuzz
