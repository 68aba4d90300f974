#pragma once

#include "base/result.h"
#include "model/source.h"
#include "text/tokenizer.h"

namespace fourfold::runtime {

/// The tokenizer that belongs to a model: tokenizer.json of a folder, the vocabulary of a GGUF
/// file. Errors: a preset has none; a folder without tokenizer.json; a GGUF vocabulary that is not
/// SentencePiece.
base::Result<text::Tokenizer> load_tokenizer(const model::ModelSource& source);

}  // namespace fourfold::runtime
