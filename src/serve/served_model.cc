#include "serve/served_model.h"

#include <ctime>
#include <utility>

#include "runtime/load_tokenizer.h"

namespace fourfold::serve {

base::Result<std::shared_ptr<const ServedModel>> load_served_model(
    const model::ModelSource& source, const std::string& id, int64_t context,
    const std::string& chat_template) {
  FF_ASSIGN(text::Tokenizer tokenizer, runtime::load_tokenizer(source));
  auto chat = runtime::ChatTemplate::load(source, tokenizer, chat_template);
  // A template that was asked for has to be one; without, there are still completions.
  if (!chat.ok() && !chat_template.empty()) return chat.error();
  ServedModel model{.id = id.empty() ? source.name : id,
                    .root = source.name,
                    .tokenizer = std::move(tokenizer),
                    .chat_template = std::nullopt,
                    .no_chat_template = {},
                    .vocab = source.spec.vocab,
                    .context = context > 0 ? context : source.spec.max_positions,
                    .end_tokens = source.spec.eos_tokens,
                    .created_s = std::time(nullptr)};
  if (chat.ok()) {
    model.chat_template = std::move(chat).value();
  } else {
    model.no_chat_template = chat.error().message;
  }
  return std::shared_ptr<const ServedModel>(std::make_shared<ServedModel>(std::move(model)));
}

}  // namespace fourfold::serve
