#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace fourfold::base {

void init_log(spdlog::level::level_enum level) {
  auto logger = spdlog::stderr_color_mt("fourfold");
  logger->set_pattern("%^%l%$: %v");
  logger->set_level(level);
  spdlog::set_default_logger(logger);
}

}  // namespace fourfold::base
