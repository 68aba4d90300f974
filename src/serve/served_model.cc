#include "serve/served_model.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "grammar/token_table.h"
#include "runtime/load_tokenizer.h"

namespace fourfold::serve {

base::Result<std::shared_ptr<const ServedModel>> load_served_model(
    const model::ModelSource& source, const ServedModelOptions& options) {
  FF_ASSIGN(text::Tokenizer tokenizer, runtime::load_tokenizer(source));
  auto chat = runtime::ChatTemplate::load(source, tokenizer, options.chat_template);
  // A template that was asked for has to be one; without, there are still completions.
  if (!chat.ok() && !options.chat_template.empty()) return chat.error();
  int64_t longest = 0;
  for (int64_t i = 0; i < tokenizer.vocab_size(); ++i) {
    longest = std::max(longest, std::ssize(tokenizer.token_bytes(static_cast<int32_t>(i))));
  }
  auto table = std::make_shared<const grammar::TokenTable>(tokenizer, source.spec.vocab,
                                                           source.spec.eos_tokens);
  ServedModel model{.id = options.id.empty() ? source.name : options.id,
                    .root = source.name,
                    .tokenizer = std::move(tokenizer),
                    .chat_template = std::nullopt,
                    .no_chat_template = {},
                    .vocab = source.spec.vocab,
                    .context = options.context > 0 ? options.context : source.spec.max_positions,
                    .end_tokens = source.spec.eos_tokens,
                    .longest_token_bytes = longest,
                    .constraints = std::make_shared<Constraints>(std::move(table)),
                    .tool_calls = options.tool_calls,
                    .created_s = std::time(nullptr)};
  if (chat.ok()) {
    model.chat_template = std::move(chat).value();
  } else {
    model.no_chat_template = chat.error().message;
  }
  return std::shared_ptr<const ServedModel>(std::make_shared<ServedModel>(std::move(model)));
}

}  // namespace fourfold::serve
