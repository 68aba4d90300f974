// What it costs to know the tokens that an answer's form allows. FOURFOLD_GEMMA_GGUF: another model
// than the built-in one (262,144 tokens instead of 1,021).
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>

#include "grammar/constraint.h"
#include "grammar/json_schema.h"
#include "model/source.h"
#include "runtime/load_tokenizer.h"

namespace fourfold {
namespace {

struct Vocabulary {
  text::Tokenizer tokenizer;
  std::shared_ptr<const grammar::TokenTable> table;
};

const Vocabulary& vocabulary() {
  static const Vocabulary all = [] {
    const char* path = std::getenv("FOURFOLD_GEMMA_GGUF");
    const auto source = model::open_model(path != nullptr ? path : "tiny", false, 0).value();
    const text::Tokenizer tokenizer = runtime::load_tokenizer(source).value();
    return Vocabulary{tokenizer, std::make_shared<const grammar::TokenTable>(
                                     tokenizer, source.spec.vocab, source.spec.eos_tokens)};
  }();
  return all;
}

/// The mask behind a text, found anew (0) or remembered (1).
void mask_behind(benchmark::State& state, const char* text) {
  const Vocabulary& all = vocabulary();
  const auto schema = nlohmann::ordered_json::parse(
      R"({"properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
          "required": ["name", "age"]})");
  const grammar::Graph graph = grammar::schema_graph(schema).value();
  const bool remembered = state.range(0) == 1;
  const auto tokens = all.tokenizer.encode(text, false).value();
  auto constraint = grammar::Constraint::create(graph, all.table).value();
  for (auto _ : state) {
    state.PauseTiming();
    if (!remembered) constraint = grammar::Constraint::create(graph, all.table).value();
    const auto walk = constraint->begin();
    for (const int32_t token : tokens) {
      if (!walk->accept(token).ok()) return state.SkipWithError("a text of another form");
    }
    state.ResumeTiming();
    benchmark::DoNotOptimize(walk->allowed());
  }
}

void make_table(benchmark::State& state) {
  const Vocabulary& all = vocabulary();
  const std::vector<engine::TokenId> end = {1};
  for (auto _ : state) {
    benchmark::DoNotOptimize(grammar::TokenTable(all.tokenizer, all.tokenizer.vocab_size(), end));
  }
}

BENCHMARK_CAPTURE(mask_behind, name, "{\"")->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(mask_behind, string, "{\"name\": \"A")
    ->Arg(0)
    ->Arg(1)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(mask_behind, integer, "{\"name\": \"A\", \"age\": 1")
    ->Arg(0)
    ->Arg(1)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(make_table)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace fourfold
