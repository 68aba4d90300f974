#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "route/router.h"
#include "serve/front.h"

namespace fourfold::route {

struct RouteOptions {
  serve::FrontOptions front;
  std::vector<std::string> replicas;  ///< URLs
  std::string admin_key_file;         ///< "": nobody may change the replicas
  std::string replica_key_file;       ///< its first key is shown to replicas; "": none
  RouterOptions router;
};

/// Routes until SIGTERM or SIGINT; a second one ends what is still under way. SIGHUP reads the keys
/// again. `ready` gets what to tell the user, once every replica has been asked how it is. Errors:
/// what cannot be started, and at the end requests that were cut.
base::Status route(const RouteOptions& options,
                   const std::function<void(const std::string&)>& ready);

}  // namespace fourfold::route
