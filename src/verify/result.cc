#include "verify/result.h"

#include <algorithm>
#include <fstream>
#include <thread>

namespace fourfold::verify {

bool VerifyReport::ok() const {
  return std::all_of(schemes.begin(), schemes.end(),
                     [](const SchemeResult& r) { return !r.legal || r.ok(); });
}

const SchemeResult* VerifyReport::find(const mesh::ParallelConfig& scheme) const {
  const auto it = std::find_if(schemes.begin(), schemes.end(),
                               [&](const SchemeResult& r) { return r.scheme == scheme; });
  return it == schemes.end() ? nullptr : &*it;
}

MachineFacts machine_facts(const std::string& isa) {
  MachineFacts out{.cpu = "unknown processor",
                   .isa = isa,
                   .cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()))};
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (line.starts_with("model name") && colon != std::string::npos) {
      out.cpu = line.substr(std::min(colon + 2, line.size()));
      break;
    }
  }
  return out;
}

}  // namespace fourfold::verify
