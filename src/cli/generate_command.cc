#include <charconv>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <random>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/progress_line.h"
#include "model/source.h"
#include "runtime/cluster.h"
#include "runtime/load_tokenizer.h"
#include "text/detokenizer.h"
#include "text/stop_strings.h"

namespace fourfold::cli {
namespace {

struct GenerateFlags {
  ModelFlags model;
  ParallelFlags parallel;
  std::vector<std::string> prompts;
  int max_tokens = 128;
  double temperature = 0.8;
  int top_k = 0;
  double top_p = 0.95;
  std::string seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  int logprobs = -1;
};

/// One prompt on its way to text. Touched by the printing thread only.
struct Generation {
  engine::Request request;
  text::IncrementalDetokenizer detokenizer;
  text::StopChecker stops;
  std::string text;
  std::vector<engine::SampledToken> tokens;
  bool done = false;
};

/// Events on their way from the engine threads to the printing one.
class Mailbox {
 public:
  void put(size_t prompt, const engine::SequenceEvent& event) {
    const std::lock_guard lock(mutex_);
    events_.emplace_back(prompt, event);
    arrived_.notify_one();
  }
  std::pair<size_t, engine::SequenceEvent> take() {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return !events_.empty(); });
    auto out = std::move(events_.front());
    events_.pop_front();
    return out;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::pair<size_t, engine::SequenceEvent>> events_;
};

base::Result<uint64_t> parse_seed(const std::string& text) {
  uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error == std::errc() && end == text.data() + text.size()) return seed;
  return base::fail("\"{}\": expected a number from 0 to 2^64 - 1", text);
}

base::Result<engine::SamplingParams> sampling_of(const GenerateFlags& flags) {
  engine::SamplingParams params{.temperature = static_cast<float>(flags.temperature),
                                .top_k = flags.top_k,
                                .top_p = static_cast<float>(flags.top_p),
                                .logprobs = flags.logprobs};
  if (flags.seed.empty()) {
    std::random_device device;
    params.seed = (uint64_t{device()} << 32) | device();
    return params;
  }
  FF_ASSIGN(params.seed, parse_seed(flags.seed));
  return params;
}

base::Result<std::vector<Generation>> make_generations(const GenerateFlags& flags,
                                                       const model::ModelSource& source,
                                                       const text::Tokenizer& tokenizer) {
  FF_ASSIGN(const engine::SamplingParams sampling, sampling_of(flags));
  std::vector<Generation> out;
  for (const std::string& prompt : flags.prompts) {
    engine::Request request;
    FF_ASSIGN(request.prompt, tokenizer.encode(prompt, /*add_special=*/true));
    if (request.prompt.empty()) return base::fail("the prompt \"{}\" has no tokens", prompt);
    const int64_t length = static_cast<int64_t>(request.prompt.size()) + flags.max_tokens;
    const int64_t context =
        flags.model.max_model_len > 0 ? flags.model.max_model_len : source.spec.max_positions;
    if (length > context) {
      return base::fail(
          "a prompt of {} tokens and {} new ones do not fit a context of {}: shorten the "
          "prompt or lower -n to at most {}",
          request.prompt.size(), flags.max_tokens, context,
          std::max<int64_t>(0, context - static_cast<int64_t>(request.prompt.size())));
    }
    request.max_new_tokens = flags.max_tokens;
    request.sampling = sampling;
    request.stop_tokens = source.spec.eos_tokens;
    request.ignore_eos = flags.ignore_eos;
    FF_ASSIGN(text::StopChecker stops, text::StopChecker::create(flags.stop, false));
    out.push_back({.request = std::move(request),
                   .detokenizer = {tokenizer, {.skip_special = true, .continues_text = true}},
                   .stops = std::move(stops),
                   .text = {},
                   .tokens = {},
                   .done = false});
  }
  return out;
}

void print_logprobs(const Generation& generation, const text::Tokenizer& tokenizer) {
  for (const engine::SampledToken& token : generation.tokens) {
    fmt::print("  {:>9.4f}  {}\n", token.logprob, tokenizer.token_piece(token.token));
    for (const engine::TokenLogprob& other : token.top) {
      fmt::print("             {:>9.4f}  {}\n", other.logprob, tokenizer.token_piece(other.token));
    }
  }
}

/// Takes an event in; returns text that can be shown.
std::string advance(Generation& generation, const engine::SequenceEvent& event,
                    runtime::Cluster& cluster) {
  std::string text;
  bool stopped = false;
  if (event.token && !generation.done) {
    generation.tokens.push_back(*event.token);
    auto out = generation.stops.push(generation.detokenizer.push(event.token->token));
    text = std::move(out.text);
    stopped = out.stop.has_value();
  }
  if (event.finish && !generation.done) {
    auto out = generation.stops.push(generation.detokenizer.flush());
    text += out.text;
    stopped = stopped || out.stop.has_value();
    if (!stopped) text += generation.stops.flush();
  }
  if (stopped && !event.finish) cluster.cancel(event.id);
  generation.done = generation.done || stopped || event.finish.has_value();
  generation.text += text;
  return text;
}

base::Status generate(const GenerateFlags& flags) {
  FF_ASSIGN(runtime::ClusterConfig config, flags.model.cluster_config());
  config.scheme = flags.parallel.config;
  FF_ASSIGN(const model::ModelSource source,
            model::open_model(config.model, config.dummy_weights, config.dummy_seed));
  FF_ASSIGN(const text::Tokenizer tokenizer, runtime::load_tokenizer(source));
  FF_ASSIGN(std::vector<Generation> generations, make_generations(flags, source, tokenizer));
  size_t longest = 0;
  for (const Generation& g : generations) longest = std::max(longest, g.request.prompt.size());
  if (config.max_positions == 0) {
    config.max_positions = static_cast<int32_t>(longest) + flags.max_tokens;
  }
  config.max_running = std::min(config.max_running, static_cast<int32_t>(generations.size()));

  Mailbox mailbox;
  ProgressLine progress;
  FF_ASSIGN(const std::unique_ptr<runtime::Cluster> cluster,
            runtime::Cluster::start(config, [&](const std::string& line) {
              if (progress.on_terminal()) progress.show(line);
            }));
  progress.clear();
  for (size_t i = 0; i < generations.size(); ++i) {
    engine::Request request = generations[i].request;
    request.id = cluster->next_id();
    FF_TRY(cluster->submit(std::move(request), [&mailbox, i](const engine::SequenceEvent& event,
                                                             int64_t) { mailbox.put(i, event); }));
  }

  // The first prompt's text is shown while it comes; the others' when those before are complete.
  size_t shown = 0;
  size_t unfinished = generations.size();
  const auto show_head = [&](size_t i) {
    fmt::print("{}{}", i == 0 ? "" : "\n\n", flags.prompts[i]);
  };
  show_head(0);
  while (unfinished > 0) {
    const auto [i, event] = mailbox.take();
    if (event.finish == engine::FinishReason::kFailed) return base::fail("{}", event.failure);
    const std::string text = advance(generations[i], event, *cluster);
    if (event.finish) --unfinished;
    if (i == shown) fmt::print("{}", text);
    while (shown < generations.size() && generations[shown].done) {
      if (++shown == generations.size()) break;
      show_head(shown);
      fmt::print("{}", generations[shown].text);
    }
    std::fflush(stdout);
  }
  fmt::print("\n");
  if (flags.logprobs >= 0) {
    for (const Generation& g : generations) print_logprobs(g, tokenizer);
  }
  return {};
}

}  // namespace

Command add_generate(CLI::App& app) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Complete prompts: text in, text out");
  flags->model.add_to(*command);
  command->get_option("model")->required();
  flags->parallel.add_to(*command);
  command->add_option("prompts", flags->prompts, "Prompts; each is completed")->required();
  command->add_option("-n,--max-tokens", flags->max_tokens, "Tokens to generate at most")
      ->check(CLI::Range(1, std::numeric_limits<int>::max() / 2))
      ->capture_default_str();
  command->add_option("--temperature", flags->temperature, "0: always the most likely token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--top-k", flags->top_k, "Only the k most likely tokens; 0: all")
      ->check(CLI::Range(0, std::numeric_limits<int>::max()))
      ->capture_default_str();
  command
      ->add_option("--top-p", flags->top_p,
                   "Only the most likely tokens that reach this probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  command
      ->add_option("--seed", flags->seed,
                   "Of sampling: the same seed gives the same text whatever the scheme (default: "
                   "random)")
      ->check(checked_by(parse_seed));
  command->add_option("--stop", flags->stop, "End the text before this string; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  command->add_flag("--ignore-eos", flags->ignore_eos, "Go on after the model's end token");
  command
      ->add_option("--logprobs", flags->logprobs,
                   "Print each token's log-probability and this many alternatives")
      ->check(CLI::Range(0, 100));
  command->footer(
      "\nExamples:\n"
      "  fourfold generate tiny \"In the beginning\" -n 64\n"
      "  fourfold generate gemma-3-270m-q4_k_m.gguf \"The capital of France is\" --temperature 0 "
      "-tp 2 "
      "-pp 2\n"
      "  fourfold generate HF_FOLDER \"One\" \"Two\" --seed 7 -dp 2     two prompts on two "
      "replicas\n"
      "\nThe same --seed gives the same text whatever the scheme.");
  return [flags] {
    const base::Status status = generate(*flags);
    return status.ok() ? 0 : fail(status.error());
  };
}

}  // namespace fourfold::cli
