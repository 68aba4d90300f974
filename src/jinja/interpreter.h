#pragma once

#include <string>

#include "jinja/ast.h"

namespace fourfold::jinja {

/// Renders a parsed template with these variables, which hide globals of the same name. Throws
/// TemplateError.
std::string render(const Body& body, const Dict& variables, const Dict& globals, Budget& budget);

}  // namespace fourfold::jinja
