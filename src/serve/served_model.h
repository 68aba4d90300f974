#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/ids.h"
#include "model/source.h"
#include "runtime/chat_template.h"
#include "serve/constraints.h"
#include "serve/tool_calls.h"
#include "text/tokenizer.h"

namespace fourfold::serve {

/// What requests are about. Immutable; used from many threads.
struct ServedModel {
  std::string id;    ///< what requests call it
  std::string root;  ///< what the user called it
  text::Tokenizer tokenizer;
  std::optional<runtime::ChatTemplate> chat_template;
  std::string no_chat_template;  ///< why there is none
  int64_t vocab = 0;             ///< ids are below
  int64_t context = 0;           ///< tokens of prompt and output together
  std::vector<engine::TokenId> end_tokens;
  int64_t longest_token_bytes = 0;  ///< of one token's text
  std::shared_ptr<Constraints> constraints;
  ToolCallFormat tool_calls = ToolCallFormat::kNone;  ///< that are looked for by themselves
  int64_t created_s = 0;                              ///< Unix time at which serving began
};

struct ServedModelOptions {
  std::string id;             ///< "": as the user called the model
  int64_t context = 0;        ///< 0: the model's
  std::string chat_template;  ///< a file; "": the model's own, if it has one
  ToolCallFormat tool_calls = ToolCallFormat::kNone;
};

/// Errors: those of load_tokenizer; a file that is no template.
base::Result<std::shared_ptr<const ServedModel>> load_served_model(
    const model::ModelSource& source, const ServedModelOptions& options);

}  // namespace fourfold::serve
