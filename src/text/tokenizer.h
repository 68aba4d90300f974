#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/vocabulary.h"

namespace fourfold::text {

/// The part of a tokenizer that turns text into ids. Immutable; called from many threads.
class Encoder {
 public:
  virtual ~Encoder() = default;
  /// Appends the ids of `text`, valid UTF-8 of at most `kMaxTextBytes`.
  virtual base::Status encode(std::string_view text, std::vector<int32_t>* ids) const = 0;
  /// The same, but that special tokens spelled in the text become those tokens.
  virtual base::Status encode_marked(std::string_view text, std::vector<int32_t>* ids) const = 0;
};

/// Text to token ids and back. Immutable and cheap to copy; every member is safe to call from any
/// thread.
class Tokenizer {
 public:
  Tokenizer(Vocabulary vocabulary, std::unique_ptr<const Encoder> encoder);

  /// The ids of `text`; with `add_special` also those that the model expects around a text (often a
  /// BOS in front). Bytes that are not UTF-8 are read as Python's `decode("utf-8", "replace")`
  /// does. Special tokens spelled in the text are recognised where the format says so
  /// (tokenizer.json) and are plain text where it does not (SentencePiece). An error only if the
  /// text is too long or a regular expression of the tokenizer needs too many steps on it.
  base::Result<std::vector<int32_t>> encode(std::string_view text, bool add_special) const;

  /// The ids of a rendered chat template: special tokens spelled in it are those tokens in every
  /// format, and none are added. What stands between two of them is a text of its own.
  base::Result<std::vector<int32_t>> encode_marked(std::string_view text) const;

  /// The text of `ids`, always valid UTF-8. Ids without a token stand for nothing. `skip_special`
  /// leaves special tokens out. A stream is decoded by `IncrementalDetokenizer`, to the same text.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  /// The bytes a token stands for inside a text, perhaps only a part of a character. Empty for ids
  /// without a token.
  std::string_view token_bytes(int32_t id) const { return state_->vocabulary.bytes(id); }
  /// The token as the vocabulary spells it, for example "Ġthe".
  std::string_view token_piece(int32_t id) const { return state_->vocabulary.piece(id); }
  std::optional<int32_t> token_to_id(std::string_view piece) const {
    return state_->vocabulary.find(piece);
  }

  /// One past the largest id. A model's embedding may have more rows.
  int64_t vocab_size() const { return state_->vocabulary.size(); }
  bool is_special(int32_t id) const { return state_->vocabulary.is_special(id); }
  std::optional<int32_t> bos() const { return state_->vocabulary.bos; }
  std::optional<int32_t> eos() const { return state_->vocabulary.eos; }
  /// How the first token of a text is decoded.
  const TextStart& text_start() const { return state_->vocabulary.text_start; }

 private:
  static base::Status check_length(std::string_view text);

  struct State {
    Vocabulary vocabulary;
    std::unique_ptr<const Encoder> encoder;
  };
  std::shared_ptr<const State> state_;
};

/// Byte-level and byte-fallback BPE from the text of a Hugging Face `tokenizer.json`; BOS, EOS and
/// further added tokens from `tokenizer_config.json` (empty if there is none). Identical to the
/// `tokenizers` package, except that a run of byte-fallback tokens that is not UTF-8 decodes to one
/// U+FFFD per invalid sequence, not per byte. A component that is not supported is an error that
/// names it; the truncation and padding settings are not used, as in transformers. Safe on
/// arbitrary bytes.
base::Result<Tokenizer> tokenizer_from_json(std::string_view tokenizer_json,
                                            std::string_view tokenizer_config_json);

/// A SentencePiece BPE model as GGUF stores it (`tokenizer.ggml.model = llama`). User-defined
/// pieces may have plain spaces, as GGUF writes them, or U+2581.
struct SentencePieceVocab {
  /// `tokenizer.ggml.token_type`, which are SentencePiece's own types.
  enum Type : int32_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6,
  };
  std::vector<std::string> pieces;  ///< By id.
  std::vector<float> scores;        ///< By id: the larger merges first.
  std::vector<int32_t> types;       ///< By id.
  int32_t bos_id = -1;              ///< -1: none.
  int32_t eos_id = -1;
  int32_t unk_id = -1;
  bool add_bos = true;           ///< add_special puts BOS in front.
  bool add_eos = false;          ///< add_special puts EOS behind.
  bool add_space_prefix = true;  ///< A text begins with a space that it does not show.
};

/// SentencePiece BPE with byte fallback. Identical to the `sentencepiece` package with the identity
/// normalizer; user-defined pieces are matched first, control pieces never.
base::Result<Tokenizer> tokenizer_from_sentencepiece(SentencePieceVocab vocab);

}  // namespace fourfold::text
