#pragma once

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace fourfold::tests {

struct Outcome {
  int code = -1;
  std::string text;  ///< stdout and stderr
};

/// A command of the shell, ended after so many seconds.
inline Outcome run_command(const std::string& command, int seconds = 120) {
  const std::string whole =
      "timeout " + std::to_string(seconds) + " " + command + " 2>&1 </dev/null";
  Outcome out;
  FILE* pipe = popen(whole.c_str(), "r");
  std::array<char, 4096> buffer{};
  while (const size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) {
    out.text.append(buffer.data(), n);
  }
  out.code = WEXITSTATUS(pclose(pipe));
  return out;
}

/// The program with these arguments.
inline Outcome run(const std::string& arguments, const std::string& environment = "") {
  return run_command("env " + environment + " " + FOURFOLD_BINARY + " " + arguments);
}

}  // namespace fourfold::tests
