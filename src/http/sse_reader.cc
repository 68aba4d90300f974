#include "http/sse_reader.h"

namespace fourfold::http {

base::Status SseReader::push(std::string_view bytes, const Event& event) {
  while (!bytes.empty()) {
    if (after_cr_ && bytes.front() == '\n') bytes.remove_prefix(1);
    after_cr_ = false;
    const size_t end = bytes.find_first_of("\r\n");
    line_ += bytes.substr(0, end);
    if (line_.size() + data_.size() > kMostBytes) {
      return base::fail("a server-sent event of more than {} bytes", kMostBytes);
    }
    if (end == std::string_view::npos) return {};
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    std::string_view line = line_;
    constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
    if (at_begin_ && line.starts_with(kByteOrderMark)) line.remove_prefix(kByteOrderMark.size());
    at_begin_ = false;
    FF_TRY(take_line(line, event));
    line_.clear();
  }
  return {};
}

base::Status SseReader::take_line(std::string_view line, const Event& event) {
  if (line.empty()) {
    if (has_data_) {
      data_.pop_back();
      event(data_);
    }
    data_.clear();
    has_data_ = false;
    return {};
  }
  const size_t colon = line.find(':');
  if (line.substr(0, colon) != "data") return {};
  std::string_view value = colon == std::string_view::npos ? "" : line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  data_ += value;
  data_ += '\n';
  has_data_ = true;
  return {};
}

}  // namespace fourfold::http
