#pragma once

#include <spdlog/spdlog.h>

namespace fourfold::base {

/// Log lines go to stderr, so that stdout carries only what the user asked for.
/// Level: "error", "warn", "info" or "debug" (default warn).
void init_log(spdlog::level::level_enum level);

}  // namespace fourfold::base
