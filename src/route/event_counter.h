#pragma once

#include <cstdint>
#include <string_view>

namespace fourfold::route {

/// Counts the server-sent events of a stream that passes in any pieces: an empty line ends one.
/// Lines end with LF or CRLF.
class EventCounter {
 public:
  /// Events that `bytes` complete.
  int64_t push(std::string_view bytes) {
    int64_t events = 0;
    while (!bytes.empty()) {
      const size_t end = bytes.find('\n');
      const std::string_view line = bytes.substr(0, end);
      line_empty_ = line_empty_ && (line.empty() || line == "\r");
      if (end == bytes.npos) {
        between_ = false;
        break;
      }
      bytes.remove_prefix(end + 1);
      between_ = line_empty_;
      if (line_empty_) ++events;
      line_empty_ = true;
    }
    return events;
  }
  /// No event has begun that has not ended.
  bool between_events() const { return between_; }

 private:
  bool line_empty_ = true;  ///< the current one, so far
  bool between_ = true;
};

}  // namespace fourfold::route
