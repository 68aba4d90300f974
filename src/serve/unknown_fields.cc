#include "serve/unknown_fields.h"

#include "base/log.h"
#include "files/printable.h"
#include "serve/fields.h"

namespace fourfold::serve {
namespace {

constexpr size_t kMaxLogged = 1000;
constexpr size_t kMaxHeaderBytes = 1000;

}  // namespace

std::optional<ApiError> UnknownFields::check(const std::vector<std::string>& fields,
                                             std::vector<http::Header>* headers) {
  if (fields.empty()) return std::nullopt;
  if (strict_) {
    ApiError error = field_error(
        fields.front(), "the field " + files::printable(fields.front()) + " is not known here");
    error.code = "unknown_parameter";
    return error;
  }
  std::string names;
  const std::lock_guard lock(mutex_);
  for (const std::string& field : fields) {
    const std::string name = files::printable(field);
    names += (names.empty() ? "" : ", ") + name;
    if (logged_.size() < kMaxLogged && logged_.insert(name).second) {
      spdlog::warn("requests have a field \"{}\" that is not known here; it is ignored", name);
    }
    if (names.size() > kMaxHeaderBytes) break;
  }
  headers->push_back({"X-Fourfold-Ignored-Fields", names});
  return std::nullopt;
}

}  // namespace fourfold::serve
