#include "jinja/template.h"

#include "jinja/builtins.h"
#include "jinja/interpreter.h"
#include "jinja/parser.h"

namespace fourfold::jinja {

struct Template::Parsed {
  Body body;
  Limits limits;
};

base::Result<Template> Template::parse(std::string_view source, const Limits& limits) {
  if (std::ssize(source) > limits.source_bytes) {
    return base::fail("the chat template has {} bytes, at most {}", source.size(),
                      limits.source_bytes);
  }
  try {
    return Template(std::make_shared<const Parsed>(Parsed{jinja::parse(source), limits}));
  } catch (const TemplateError& error) {
    return base::fail("the chat template: {}", error.what());
  }
}

base::Result<std::string> Template::render(const Dict& variables, int64_t now_unix_s) const {
  Budget budget(parsed_->limits.steps, parsed_->limits.bytes);
  try {
    return jinja::render(parsed_->body, variables, globals(now_unix_s), budget);
  } catch (const TemplateError& error) {
    return base::fail("the chat template: {}", error.what());
  }
}

}  // namespace fourfold::jinja
