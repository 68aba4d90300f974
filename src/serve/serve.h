#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/numerics.h"
#include "base/result.h"
#include "runtime/cluster.h"
#include "serve/front.h"
#include "serve/service.h"

namespace fourfold::serve {

struct ServeOptions {
  runtime::ClusterConfig cluster;  ///< groups are restarted, whatever it says
  base::Numerics numerics = base::Numerics::kFast;
  FrontOptions front;
  std::string model_id;                   ///< "": as the model is called
  std::string chat_template;              ///< a file; "": the model's
  std::string tool_call_parser = "none";  ///< tool_call_format() knows the names
  bool enable_auto_tool_choice = false;   ///< answers may call tools by themselves
  ServiceOptions service;
};

/// Serves until SIGTERM or SIGINT; a second one ends what is still under way. SIGHUP reads the keys
/// again. `ready` gets what to tell the user once requests are taken. Errors: what cannot be
/// started, and at the end requests that were cut.
base::Status serve(const ServeOptions& options, const runtime::StartProgress& progress,
                   const std::function<void(const std::string&)>& ready);

}  // namespace fourfold::serve
