#include <charconv>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <random>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/progress_line.h"
#include "model/source.h"
#include "runtime/chat_template.h"
#include "runtime/cluster.h"
#include "runtime/load_tokenizer.h"
#include "runtime/output_text.h"

namespace fourfold::cli {
namespace {

struct GenerateFlags {
  ModelFlags model;
  ParallelFlags parallel;
  std::vector<std::string> prompts;
  int max_tokens = 128;
  SamplingFlags sampling{.temperature = 0.8, .top_p = 0.95};
  double repetition_penalty = 1;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::string logit_bias;
  int min_tokens = 0;
  int choices = 1;
  std::string seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  int logprobs = -1;
  bool chat = false;
  std::string system;
  std::string chat_template;
};

/// One output of one prompt on its way to text. Touched by the printing thread only.
struct Generation {
  size_t prompt = 0;
  int choice = 0;
  engine::Request request;  ///< of the prompt; its first choice sends it
  runtime::OutputText output;
  std::string text;
  std::vector<engine::SampledToken> tokens;
};

/// Events on their way from the engine threads to the printing one.
class Mailbox {
 public:
  void put(size_t generation, const engine::SequenceEvent& event) {
    const std::lock_guard lock(mutex_);
    events_.emplace_back(generation, event);
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

/// "11:-100,42:2.5".
base::Result<std::vector<engine::LogitBias>> parse_logit_bias(const std::string& text) {
  std::map<engine::TokenId, float> biases;
  const char* next = text.data();
  const char* const end = next + text.size();
  while (next != end) {
    engine::LogitBias entry;
    const auto [colon, token_error] = std::from_chars(next, end, entry.token);
    const bool has_token = token_error == std::errc() && colon != end && *colon == ':';
    const auto [comma, error] = std::from_chars(has_token ? colon + 1 : end, end, entry.bias);
    if (!has_token || entry.token < 0 || error != std::errc() || (comma != end && *comma != ',')) {
      return base::fail("\"{}\": expected token ids with a bias each, like 11:-100,42:2.5", text);
    }
    if (!biases.emplace(entry.token, entry.bias).second) {
      return base::fail("\"{}\" has token {} twice", text, entry.token);
    }
    next = comma == end ? end : comma + 1;
  }
  engine::SamplingParams params;
  for (const auto& [token, bias] : biases) params.logit_bias.push_back({token, bias});
  FF_TRY(engine::check_sampling(params));
  return params.logit_bias;
}

base::Result<engine::SamplingParams> sampling_of(const GenerateFlags& flags,
                                                 const model::ModelSource& source) {
  engine::SamplingParams params = flags.sampling.params();
  params.repetition_penalty = static_cast<float>(flags.repetition_penalty);
  params.presence_penalty = static_cast<float>(flags.presence_penalty);
  params.frequency_penalty = static_cast<float>(flags.frequency_penalty);
  params.min_tokens = flags.min_tokens;
  params.logprobs = flags.logprobs;
  if (flags.min_tokens > flags.max_tokens) {
    return base::fail("--min-tokens {} is more than -n {}", flags.min_tokens, flags.max_tokens);
  }
  FF_ASSIGN(params.logit_bias, parse_logit_bias(flags.logit_bias));
  if (!params.logit_bias.empty() && params.logit_bias.back().token >= source.spec.vocab) {
    return base::fail("--logit-bias has token {}, the model's tokens are 0 to {}",
                      params.logit_bias.back().token, source.spec.vocab - 1);
  }
  FF_TRY(engine::check_sampling(params));
  if (flags.seed.empty()) {
    std::random_device device;
    params.seed = (uint64_t{device()} << 32) | device();
    return params;
  }
  FF_ASSIGN(params.seed, parse_seed(flags.seed));
  return params;
}

/// The ids of each prompt; as a user's message in the model's chat template, if that is asked for.
base::Result<std::vector<std::vector<int32_t>>> encode_prompts(const GenerateFlags& flags,
                                                               const model::ModelSource& source,
                                                               const text::Tokenizer& tokenizer) {
  std::vector<std::vector<int32_t>> out;
  if (!flags.chat) {
    for (const std::string& prompt : flags.prompts) {
      FF_ASSIGN(out.emplace_back(), tokenizer.encode(prompt, /*add_special=*/true));
    }
    return out;
  }
  FF_ASSIGN(const auto chat, runtime::ChatTemplate::load(source, tokenizer, flags.chat_template));
  for (const std::string& prompt : flags.prompts) {
    auto messages = nlohmann::ordered_json::array();
    if (!flags.system.empty()) messages.push_back({{"role", "system"}, {"content", flags.system}});
    messages.push_back({{"role", "user"}, {"content", prompt}});
    FF_ASSIGN(out.emplace_back(),
              chat.encode(messages, /*tools=*/nullptr, /*add_generation_prompt=*/true));
  }
  return out;
}

base::Result<std::vector<Generation>> make_generations(const GenerateFlags& flags,
                                                       const model::ModelSource& source,
                                                       const text::Tokenizer& tokenizer) {
  FF_ASSIGN(const engine::SamplingParams sampling, sampling_of(flags, source));
  FF_ASSIGN(std::vector<std::vector<int32_t>> prompts, encode_prompts(flags, source, tokenizer));
  std::vector<Generation> out;
  for (size_t i = 0; i < flags.prompts.size(); ++i) {
    const std::string& prompt = flags.prompts[i];
    engine::Request request;
    request.prompt = std::move(prompts[i]);
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
    for (int choice = 0; choice < flags.choices; ++choice) {
      FF_ASSIGN(runtime::OutputText output,
                runtime::OutputText::create(tokenizer,
                                            {.stops = flags.stop, .min_tokens = flags.min_tokens}));
      out.push_back({.prompt = i,
                     .choice = choice,
                     .request = request,
                     .output = std::move(output),
                     .text = {},
                     .tokens = {}});
    }
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

/// Sends each prompt with all its choices; events arrive by the index of their generation.
base::Status submit_all(std::vector<Generation>& generations, runtime::Cluster& cluster,
                        Mailbox& mailbox) {
  std::map<engine::SequenceId, size_t> generation_of;
  for (size_t i = 0; i < generations.size(); ++i) generation_of[cluster.next_id()] = i;
  auto next = generation_of.begin();
  while (next != generation_of.end()) {
    const size_t prompt = generations[next->second].prompt;
    engine::Request request = generations[next->second].request;
    request.id = next->first;
    for (++next; next != generation_of.end() && generations[next->second].prompt == prompt;
         ++next) {
      request.forks.push_back(next->first);
    }
    FF_TRY(cluster.submit(std::move(request),
                          [&mailbox, generation_of](const engine::SequenceEvent& event, int64_t) {
                            mailbox.put(generation_of.at(event.id), event);
                          }));
  }
  return {};
}

/// Takes an event in; returns text that can be shown.
std::string advance(Generation& generation, const engine::SequenceEvent& event,
                    runtime::Cluster& cluster) {
  if (event.token && !generation.output.ended()) generation.tokens.push_back(*event.token);
  const runtime::OutputText::Piece piece = generation.output.push(event);
  if (piece.stopped && !event.finish) cluster.cancel(event.id);
  generation.text += piece.text;
  return piece.text;
}

/// Takes events in until all is generated. The first text is shown while it comes; the others when
/// those before are complete.
base::Status show_texts(std::vector<Generation>& generations, const GenerateFlags& flags,
                        runtime::Cluster& cluster, Mailbox& mailbox) {
  size_t shown = 0;
  size_t unfinished = generations.size();
  const auto show_head = [&](size_t i) {
    if (i > 0) fmt::print("\n\n");
    if (flags.choices > 1) {
      fmt::print("--- choice {} of {} ---\n", generations[i].choice + 1, flags.choices);
    }
    fmt::print("{}", flags.prompts[generations[i].prompt]);
  };
  show_head(0);
  while (unfinished > 0) {
    const auto [i, event] = mailbox.take();
    if (event.finish == engine::FinishReason::kFailed) return base::fail("{}", event.failure);
    const std::string text = advance(generations[i], event, cluster);
    if (event.finish) --unfinished;
    if (i == shown) fmt::print("{}", text);
    while (shown < generations.size() && generations[shown].output.ended()) {
      if (++shown == generations.size()) break;
      show_head(shown);
      fmt::print("{}", generations[shown].text);
    }
    std::fflush(stdout);
  }
  return {};
}

base::Status generate(const GenerateFlags& flags) {
  FF_ASSIGN(runtime::ClusterConfig config, flags.model.cluster_config());
  FF_TRY(flags.parallel.set_scheme(config));
  FF_ASSIGN(const model::ModelSource source, runtime::open_source(config));
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
  FF_TRY(submit_all(generations, *cluster, mailbox));

  FF_TRY(show_texts(generations, flags, *cluster, mailbox));
  fmt::print("\n");
  if (flags.logprobs >= 0) {
    for (const Generation& g : generations) print_logprobs(g, tokenizer);
  }
  return {};
}

void add_penalties(CLI::App& command, GenerateFlags& flags) {
  command
      .add_option("--repetition-penalty", flags.repetition_penalty,
                  "Divides (negative: multiplies) the logits of tokens in prompt or output")
      ->check(number_in(0.01, 100.0))
      ->capture_default_str();
  command
      .add_option("--presence-penalty", flags.presence_penalty,
                  "Subtracted from the logits of tokens in the output")
      ->check(number_in(-2.0, 2.0))
      ->capture_default_str();
  command
      .add_option("--frequency-penalty", flags.frequency_penalty,
                  "The same for each time that the token is in the output")
      ->check(number_in(-2.0, 2.0))
      ->capture_default_str();
  command
      .add_option("--logit-bias", flags.logit_bias,
                  "ID:BIAS,...: added to the logits of tokens, -100 to 100")
      ->check(checked_by(parse_logit_bias));
  command
      .add_option("--min-tokens", flags.min_tokens,
                  "No end token and no --stop among the first so many tokens")
      ->check(CLI::Range(0, std::numeric_limits<int>::max() / 2))
      ->capture_default_str();
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
  flags->sampling.add_to(*command);
  add_penalties(*command, *flags);
  command
      ->add_option("--choices", flags->choices,
                   "Outputs for each prompt (the n of OpenAI's API); its KV blocks are shared")
      ->check(CLI::Range(1, 128))
      ->capture_default_str();
  command
      ->add_option("--seed", flags->seed,
                   "Of sampling: in invariant numerics the same text whatever the scheme (default: "
                   "random)")
      ->check(checked_by(parse_seed));
  command->add_option("--stop", flags->stop, "End the text before this string; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  CLI::Option* chat = command->add_flag(
      "--chat", flags->chat, "Each prompt is a user's message, put into the model's chat template");
  command->add_option("--system", flags->system, "System message before it")->needs(chat);
  command
      ->add_option("--chat-template", flags->chat_template,
                   "Take the Jinja template of this file instead of the model's")
      ->type_name("FILE")
      ->check(CLI::ExistingFile)
      ->needs(chat);
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
      "  fourfold generate HF_FOLDER --chat --system \"Be brief.\" \"Why is the sky blue?\"\n"
      "\nWith --numerics invariant the same --seed gives the same text whatever the scheme.");
  return [flags] {
    const base::Status status = generate(*flags);
    return status.ok() ? 0 : fail(status.error());
  };
}

}  // namespace fourfold::cli
