#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/numerics.h"
#include "base/result.h"
#include "runtime/cluster.h"
#include "serve/service.h"

namespace fourfold::serve {

struct ServeOptions {
  runtime::ClusterConfig cluster;
  base::Numerics numerics = base::Numerics::kFast;
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  std::string key_file;        ///< serve::Keys; "": no key is needed
  bool allow_no_auth = false;  ///< serve others than this machine without a key
  std::string model_id;        ///< "": as the model is called
  std::string chat_template;   ///< a file; "": the model's
  ServiceOptions service;
  int64_t shutdown_timeout_s = 30;  ///< what is under way may take so long after SIGTERM
};

/// Serves until SIGTERM or SIGINT; a second one ends what is still under way. SIGHUP reads the keys
/// again. `ready` gets what to tell the user once requests are taken. Errors: what cannot be
/// started, and at the end requests that were cut.
base::Status serve(const ServeOptions& options, const runtime::StartProgress& progress,
                   const std::function<void(const std::string&)>& ready);

}  // namespace fourfold::serve
