// What stands on a command line, one argument a line, each read as everything that a flag may be.
#include "cli/flags.h"
#include "load/slo.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {
namespace {

void check_scheme(const std::string& text) {
  const auto scheme = mesh::parse_scheme(text);
  if (!scheme.ok()) return;
  const auto again = mesh::parse_scheme(mesh::scheme_name(*scheme));
  CHECK(again.ok() && mesh::scheme_name(*again) == mesh::scheme_name(*scheme), "{}", text);
  const mesh::ModelDivisors model = {
      .layers = 32, .heads = 32, .kv_heads = 8, .intermediate_granules = 448};
  const auto mesh = mesh::Mesh::create(*scheme, model);
  if (mesh.ok())
    CHECK(scheme->devices() > 0 && mesh->world_size() == scheme->devices(), "{}", text);
}

void check_sizes(const std::string& text) {
  const auto bytes = cli::parse_bytes(text);
  if (bytes.ok()) CHECK(*bytes >= 1, "{} is {} bytes", text, *bytes);
  const auto slo = load::parse_slo(text);
  if (slo.ok()) CHECK(load::parse_slo(load::to_string(*slo)).ok(), "{} does not come back", text);
  const auto list = cli::parse_int_list(text);
  if (!list.ok()) return;
  CHECK(!list->empty(), "an empty list of \"{}\"", text);
  for (const int value : *list) CHECK(value >= 1 && value <= 65536, "{} in {}", value, text);
}

}  // namespace

void check_input(std::string_view input) {
  std::vector<std::string> arguments;
  while (!input.empty()) {
    const std::string argument(take_until(&input, '\n'));
    arguments.push_back(argument.substr(0, argument.find('\0')));
  }
  std::vector<const char*> argv = {"fourfold"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  const auto words = cli::normalise(static_cast<int>(argv.size()), argv.data());
  CHECK(words.size() == arguments.size(), "{} of {}", words.size(), arguments.size());
  for (const std::string& word : words) {
    check_scheme(word);
    check_sizes(word);
  }
}

}  // namespace fourfold::fuzz
