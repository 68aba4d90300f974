#include <cstdio>
#include <memory>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/progress_line.h"
#include "serve/serve.h"

namespace fourfold::cli {
namespace {

struct ServeFlags {
  ModelFlags model;
  ParallelFlags parallel;
  serve::ServeOptions options;
};

base::Status serve_model(const ServeFlags& flags) {
  serve::ServeOptions options = flags.options;
  FF_ASSIGN(options.cluster, flags.model.cluster_config());
  FF_TRY(flags.parallel.set_scheme(options.cluster));
  options.numerics = flags.model.numerics_of_steps();
  ProgressLine progress;
  const auto show = [&](const std::string& line) {
    if (progress.on_terminal()) progress.show(line);
  };
  return serve::serve(options, show, [&](const std::string& text) {
    progress.clear();
    fmt::print("{}", text);
    std::fflush(stdout);
  });
}

void add_server_flags(CLI::App& command, serve::ServeOptions& options) {
  add_front_flags(command, options.front);
  command
      .add_option("--served-model-name", options.model_id,
                  "The model's id in requests (default: MODEL as it is written)")
      ->group(kServerGroup);
  command
      .add_option("--chat-template", options.chat_template,
                  "Take the Jinja template of this file instead of the model's")
      ->type_name("FILE")
      ->check(CLI::ExistingFile)
      ->group(kServerGroup);
  command
      .add_flag("--enable-auto-tool-choice", options.enable_auto_tool_choice,
                "Look for calls of the request's tools in answers")
      ->group(kServerGroup);
  command
      .add_option("--tool-call-parser", options.tool_call_parser,
                  "How the model writes calls: hermes (<tool_call>{…}</tool_call>, also Qwen), "
                  "llama3_json ({\"name\": …, \"parameters\": {…}}) or none")
      ->capture_default_str()
      ->group(kServerGroup);
  command
      .add_flag("--strict", options.service.strict,
                "Refuse requests with fields that nobody knows (default: ignore them, name them in "
                "the header X-Fourfold-Ignored-Fields and log each name once)")
      ->group(kServerGroup);
  command
      .add_option("--max-num-queued-reqs", options.service.max_queued_requests,
                  "Choices that may wait for their first token; a request beyond them is answered "
                  "503 with Retry-After")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->group(kServerGroup);
  command
      .add_option("--max-num-queued-tokens", options.service.max_queued_tokens,
                  "Prompt tokens that may wait")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str()
      ->group(kServerGroup);
}

}  // namespace

Command add_serve(CLI::App& app) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve a model over HTTP with OpenAI's API");
  flags->model.add_to(*command);
  flags->parallel.add_to(*command);
  add_server_flags(*command, flags->options);
  command->footer(
      "\nExamples:\n"
      "  fourfold serve tiny\n"
      "  fourfold serve gemma-3-270m-q4_k_m.gguf -tp 2 -dp 2 --port 9000\n"
      "  fourfold serve HF_FOLDER --host 0.0.0.0 --api-key-file keys.txt\n"
      "\nIn a browser: a chat, and what the server does, at /.\n"
      "Endpoints: /v1/completions, /v1/chat/completions, /v1/models, /tokenize, /detokenize,\n"
      "/health, /ready, /ping, /metrics, /version, /reset_prefix_cache, /openapi.json\n"
      "(docs/serve.md).");
  return [flags] {
    const base::Status status = serve_model(*flags);
    return status.ok() ? 0 : fail(status.error());
  };
}

}  // namespace fourfold::cli
