#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/request.h"
#include "runtime/output_text.h"
#include "serve/generation_request.h"
#include "serve/served_model.h"
#include "serve/tool_calls.h"

namespace fourfold::serve {

/// One event of a stream (https://html.spec.whatwg.org/multipage/server-sent-events.html).
std::string sse_event(std::string_view data);
inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";

/// Writes the answer to a request in OpenAI's shapes, from the events of its sequences: as a
/// stream, event by event, or whole. Sequence i is choice i % choices of prompt i / choices, and
/// has that index in the answer.
class AnswerWriter {
 public:
  /// Errors: a stop string that cannot be one. `id` and `created_s` are the answer's.
  static base::Result<AnswerWriter> create(std::shared_ptr<const ServedModel> model,
                                           GenerationRequest request, std::string id,
                                           int64_t created_s);

  struct Step {
    std::string events;   ///< of the stream; "" where the answer is whole
    bool cancel = false;  ///< a stop string was found: the engine can stop
  };
  /// Takes the next event of a sequence in, which is no failure.
  Step push(size_t sequence, const engine::SequenceEvent& event);

  /// Every sequence has ended, by itself or by a stop string.
  bool done() const { return open_ == 0; }
  /// The end of the stream: usage, if asked for, and the mark that it is complete.
  std::string end_of_stream() const;
  /// The whole answer; to be asked for once.
  std::string body();

  const GenerationRequest& request() const { return request_; }
  const std::string& id() const { return id_; }
  int64_t output_tokens() const { return output_tokens_; }
  size_t sequences() const { return choices_.size(); }
  int64_t output_tokens(size_t sequence) const { return choices_[sequence].output.tokens(); }
  /// "stop", "length" or "tool_calls"; null while the sequence goes on.
  const char* finish_reason(size_t sequence) const { return choices_[sequence].finish_reason; }

 private:
  struct Choice {
    runtime::OutputText output;
    std::string text;                          ///< of a whole answer
    std::vector<engine::SampledToken> scored;  ///< of the prompt, from its second token on
    nlohmann::ordered_json logprobs;           ///< of a whole answer; null if not asked for
    int64_t text_offset = 0;                   ///< characters before the next token
    ToolCallReader reader;
    nlohmann::ordered_json calls = nlohmann::ordered_json::array();  ///< of tools, so far
    const char* finish_reason = nullptr;
    bool begun = false;
  };

  AnswerWriter(std::shared_ptr<const ServedModel> model, GenerationRequest request, std::string id,
               int64_t created_s, std::vector<Choice> choices);

  bool is_chat() const { return request_.endpoint == Endpoint::kChat; }
  nlohmann::ordered_json frame(bool chunk) const;
  nlohmann::ordered_json usage() const;
  nlohmann::ordered_json no_logprobs() const;
  void add_logprobs(const engine::SampledToken& token, int64_t text_offset,
                    nlohmann::ordered_json& out) const;
  void add_prompt_logprobs(const Choice& choice, const Prompt& prompt,
                           nlohmann::ordered_json& out) const;
  nlohmann::ordered_json add_calls(size_t sequence, const std::vector<ToolCall>& calls);
  std::string chunk(size_t index, nlohmann::ordered_json delta, bool role,
                    nlohmann::ordered_json logprobs) const;

  std::shared_ptr<const ServedModel> model_;
  GenerationRequest request_;
  std::string id_;
  int64_t created_s_;
  std::vector<Choice> choices_;
  size_t open_;
  int64_t output_tokens_ = 0;
};

}  // namespace fourfold::serve
