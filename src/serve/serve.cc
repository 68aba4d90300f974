#include "serve/serve.h"

#include <fmt/format.h>

#include <memory>
#include <utility>

#include "serve/api.h"

namespace fourfold::serve {
namespace {

base::Result<ToolCallFormat> read_tool_call_format(const ServeOptions& options) {
  FF_ASSIGN(const ToolCallFormat format, tool_call_format(options.tool_call_parser));
  if (options.enable_auto_tool_choice && format == ToolCallFormat::kNone) {
    return base::fail(
        "--enable-auto-tool-choice needs --tool-call-parser hermes or llama3_json: how this model "
        "writes that it calls a function");
  }
  return options.enable_auto_tool_choice ? format : ToolCallFormat::kNone;
}

std::string ready_text(const ServedModel& model, const std::string& url, bool key) {
  return fmt::format(
      "Serving {} at {}\n"
      "  model id  {}\n"
      "  context   {} tokens\n"
      "  chat      {}\n"
      "  try       curl {}/v1/completions -H 'Content-Type: application/json'{} -d "
      "'{{\"model\": \"{}\", \"prompt\": \"In the beginning\", \"max_tokens\": 32}}'\n",
      model.root, url, model.id, model.context,
      model.chat_template ? "yes" : "no: " + model.no_chat_template, url,
      key ? " -H \"Authorization: Bearer $KEY\"" : "", model.id);
}

}  // namespace

base::Status serve(const ServeOptions& options, const runtime::StartProgress& progress,
                   const std::function<void(const std::string&)>& ready) {
  FF_ASSIGN(Keys keys, read_keys(options.front));
  FF_ASSIGN(const model::ModelSource source, runtime::open_source(options.cluster));
  FF_ASSIGN(const ToolCallFormat tool_calls, read_tool_call_format(options));
  FF_ASSIGN(const std::shared_ptr<const ServedModel> model,
            load_served_model(source, {.id = options.model_id,
                                       .context = options.cluster.max_positions,
                                       .chat_template = options.chat_template,
                                       .tool_calls = tool_calls}));
  const base::SteadyClock clock;
  Api* api = nullptr;  // until run() nobody asks for it
  FF_ASSIGN(const SiteRules sites, site_rules(options.front));
  FF_ASSIGN(
      const std::unique_ptr<http::Server> server,
      http::Server::listen(
          serve::server_options(
              options.front, sites,
              [&api](const http::Request& head) { return api->check_head(head); }),
          clock, serve::guarded(sites, [&api](const std::shared_ptr<http::Exchange>& exchange) {
            api->handle(exchange);
          })));

  runtime::ClusterConfig config = options.cluster;
  config.restart.emplace();
  FF_ASSIGN(const std::unique_ptr<runtime::Cluster> cluster,
            runtime::Cluster::start(config, progress));
  cluster->set_numerics(options.numerics);

  ServiceOptions service_options = options.service;
  FF_ASSIGN(service_options.fault, runtime::FaultSpec::from_environment());
  Service service(model, *cluster, *server, clock, service_options);
  const bool key = keys.needed();
  Api own_api(model, *cluster, *server, service, std::move(keys));
  api = &own_api;
  int64_t cut = 0;
  handle_signals(
      *server, options.front.shutdown_timeout_s,
      {.open_requests = [&] { return service.open_requests(); },
       .drain = [&] { own_api.set_draining(); },
       .read_keys_again = [&] { serve::read_keys_again(options.front.key_file, own_api.keys()); }},
      cut);
  ready(ready_text(*model, server->url(), key));
  server->run();
  service.stop_workers();
  if (cut > 0) return base::fail("{} requests were cut", cut);
  return {};
}

}  // namespace fourfold::serve
