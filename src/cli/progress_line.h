#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <string>

namespace fourfold::cli {

/// Progress on stderr: one line that is rewritten on a terminal; elsewhere, so that logs stay
/// short, a line for each new subject (what stands before the last colon). A line that ends with a
/// line feed stays, whole.
class ProgressLine {
 public:
  ProgressLine() : terminal_(isatty(STDERR_FILENO) != 0) {}
  ~ProgressLine() { clear(); }
  bool on_terminal() const { return terminal_; }
  void show(const std::string& line) {
    if (line.ends_with('\n')) {
      clear();
      fmt::print(stderr, "{}", line);
      return;
    }
    if (terminal_) {
      fmt::print(stderr, "\r\033[K{}", line);
    } else {
      const std::string subject = line.substr(0, line.rfind(':'));
      if (subject != subject_) fmt::print(stderr, "{}\n", subject);
      subject_ = subject;
    }
    std::fflush(stderr);
    shown_ = true;
  }
  void clear() {
    if (terminal_ && shown_) fmt::print(stderr, "\r\033[K");
    std::fflush(stderr);
    shown_ = false;
  }

 private:
  bool terminal_;
  bool shown_ = false;
  std::string subject_;
};

}  // namespace fourfold::cli
