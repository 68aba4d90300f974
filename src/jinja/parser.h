#pragma once

#include <string_view>

#include "jinja/ast.h"

namespace fourfold::jinja {

/// Parses a template. Throws TemplateError with the line.
Body parse(std::string_view source);

}  // namespace fourfold::jinja
