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

/// The program, run by a shell with these arguments.
inline Outcome run(const std::string& arguments, const std::string& environment = "") {
  const std::string command = "timeout 120 env " + environment + " " + FOURFOLD_BINARY + " " +
                              arguments + " 2>&1 </dev/null";
  Outcome out;
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 4096> buffer{};
  while (const size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) {
    out.text.append(buffer.data(), n);
  }
  out.code = WEXITSTATUS(pclose(pipe));
  return out;
}

}  // namespace fourfold::tests
