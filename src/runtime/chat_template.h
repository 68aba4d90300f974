#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "jinja/template.h"
#include "model/source.h"
#include "text/tokenizer.h"

namespace fourfold::runtime {

/// A model's chat template with its tokenizer: messages to token ids.
class ChatTemplate {
 public:
  /// `file`: a template to take instead of the model's; empty: none. The model's is
  /// chat_template.jinja of its folder, else "chat_template" of chat_template.json or
  /// tokenizer_config.json (of several the one named "default"), or of a GGUF file
  /// tokenizer.chat_template. Errors: there is none, or it is no template.
  static base::Result<ChatTemplate> load(const model::ModelSource& source,
                                         const text::Tokenizer& tokenizer, const std::string& file);

  /// The template looks at the tools that it is given.
  bool takes_tools() const { return takes_tools_; }

  /// The text of a conversation. `messages`: an array of OpenAI's messages; `tools`: of its tools,
  /// or null. Errors: what the template refuses.
  base::Result<std::string> render(const nlohmann::ordered_json& messages,
                                   const nlohmann::ordered_json& tools,
                                   bool add_generation_prompt) const;
  /// The ids of that text.
  base::Result<std::vector<int32_t>> encode(const nlohmann::ordered_json& messages,
                                            const nlohmann::ordered_json& tools,
                                            bool add_generation_prompt) const;

 private:
  ChatTemplate(jinja::Template parsed, const text::Tokenizer& tokenizer, bool takes_tools)
      : template_(std::move(parsed)), tokenizer_(tokenizer), takes_tools_(takes_tools) {}

  jinja::Template template_;
  text::Tokenizer tokenizer_;
  bool takes_tools_;
};

}  // namespace fourfold::runtime
