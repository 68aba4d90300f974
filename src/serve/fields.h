#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "serve/api_error.h"

namespace fourfold::serve {

/// Endpoints that take a JSON object.
enum class Endpoint : uint8_t { kCompletions, kChat, kTokenize, kDetokenize };
inline constexpr int kEndpoints = 4;

/// A set of endpoints.
using Endpoints = uint8_t;
constexpr Endpoints in(Endpoint endpoint) {
  return static_cast<Endpoints>(1U << static_cast<unsigned>(endpoint));
}

enum class FieldType : uint8_t {
  kBoolean,
  kInteger,
  kNumber,
  kString,
  kStrings,        ///< one, or a list
  kTokens,         ///< a list of ids
  kPrompt,         ///< a string, a list of ids, or a list of these
  kMessages,       ///< OpenAI's, content as text
  kBiases,         ///< {"token id": number}
  kStreamOptions,  ///< {"include_usage": boolean}
  kObject,         ///< its members are checked where it is read
  kSchema,         ///< a JSON schema, or a string with one
  kTools,          ///< OpenAI's functions
  kToolChoice,     ///< a word, or a function
  kNote,           ///< any value; by its definition it changes no answer
  kUnsupported,    ///< known, and refused but for null and one value that asks for nothing
};

inline constexpr double kNoDefault = std::numeric_limits<double>::quiet_NaN();

/// One field of a request: the table that validation, the OpenAPI document and the documentation
/// are made of.
struct Field {
  std::string_view name;
  FieldType type = FieldType::kNote;
  Endpoints endpoints = 0;
  bool required = false;
  double least = 0;  ///< of a number, or of each number in an object; of a list, its length
  double most = 0;
  double fallback = kNoDefault;  ///< of a number or boolean that is absent or null
  std::string_view harmless;     ///< kUnsupported: the JSON that asks for nothing; "": only null
  std::string_view help;
};

/// All of them. A name may stand twice with different endpoints.
std::span<const Field> fields();
/// The field of that name, or null.
const Field* find_field(Endpoint endpoint, std::string_view name);

/// A request's object whose fields have the types and ranges of the table. A value that is null is
/// absent.
class Fields {
 public:
  /// Errors name the field. Fields that the table does not have are left to unknown().
  static std::optional<ApiError> read(Endpoint endpoint, nlohmann::json body, Fields* out);

  /// The field's value, or null if it is absent.
  const nlohmann::json* find(std::string_view name) const;
  /// Of a field that has a default, or that is there.
  bool boolean(std::string_view name) const { return number(name) != 0; }
  int64_t integer(std::string_view name) const;
  double number(std::string_view name) const;
  const std::vector<std::string>& unknown() const { return unknown_; }

 private:
  Endpoint endpoint_ = Endpoint::kCompletions;
  nlohmann::json body_;
  std::vector<std::string> unknown_;
};

/// An error about one field.
ApiError field_error(std::string_view name, std::string message);
/// A value as a message shows it: cut, and without control characters.
std::string shown(const nlohmann::json& value);

}  // namespace fourfold::serve
