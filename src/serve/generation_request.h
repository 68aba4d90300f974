#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"
#include "runtime/output_text.h"
#include "serve/api_error.h"
#include "serve/constraints.h"
#include "serve/fields.h"
#include "serve/served_model.h"
#include "serve/tool_calls.h"

namespace fourfold::serve {

/// One prompt of a request.
struct Prompt {
  std::vector<engine::TokenId> tokens;
  std::string text;  ///< only for echo
};

/// A request for completions or a chat, checked and tokenised: what the engine and the writer of
/// the answer need.
struct GenerationRequest {
  Endpoint endpoint = Endpoint::kCompletions;
  std::vector<Prompt> prompts;
  int32_t choices = 1;     ///< of each prompt
  int32_t max_tokens = 0;  ///< of each choice, at most; the smallest that all prompts allow
  engine::SamplingParams sampling;
  bool has_seed = false;  ///< else one has to be drawn
  std::vector<engine::TokenId> stop_tokens;
  bool ignore_eos = false;
  runtime::OutputText::Options output;
  bool stream = false;
  bool include_usage = false;
  bool echo = false;
  Constraints::Pointer constraint;  ///< what every answer is constrained to; null: nothing
  ToolCallFormat tool_calls = ToolCallFormat::kNone;
  std::string function;  ///< ToolCallFormat::kNamed: which
  std::vector<std::string> unknown_fields;

  int64_t prompt_tokens() const;
};

/// Reads the body of a request to /v1/completions or /v1/chat/completions. Errors name the field:
/// JSON that is none, a value out of its range, another model, more tokens than the context has.
std::optional<ApiError> read_generation(std::string_view body, Endpoint endpoint,
                                        const ServedModel& model, GenerationRequest* out);

/// The tokens of `messages` in the model's chat template. `tools`: for the template; null: none.
std::optional<ApiError> encode_messages(nlohmann::ordered_json messages,
                                        const nlohmann::ordered_json& tools,
                                        bool add_generation_prompt, const ServedModel& model,
                                        std::vector<engine::TokenId>* out);
std::optional<ApiError> encode_text(const std::string& text, bool add_special,
                                    const ServedModel& model, std::vector<engine::TokenId>* out);
/// Refuses an id that the model does not have.
std::optional<ApiError> check_token(std::string_view field, int64_t token,
                                    const ServedModel& model);
/// Refuses a model that is not the one that is served.
std::optional<ApiError> check_model(const Fields& fields, const ServedModel& model);

}  // namespace fourfold::serve
