#include "backend/cuda/tuning_cache.h"

#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

namespace fourfold::backend::cuda {
namespace {

namespace fs = std::filesystem;

// A line of text names the format, one each problem, and the last one the hash of all before it.
constexpr std::string_view kFormat = "fourfold cublaslt 1\n";
constexpr int64_t kMostBytes = int64_t{8} << 20;

uint64_t hash_of(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

std::string hash_line(std::string_view text) {
  return fmt::format("hash {:016x}\n", hash_of(text));
}

}  // namespace

TuningCache::TuningCache(std::string path) : path_(std::move(path)) {
  if (path_.empty()) return;
  std::error_code error;
  if (!fs::exists(path_, error)) return;
  base::Result<Entries> read_now = read(path_);
  if (read_now.ok()) {
    entries_ = *std::move(read_now);
  } else {
    refused_ = read_now.error().message;
  }
}

base::Result<TuningCache::Entries> TuningCache::read(const std::string& path) {
  const auto refuse = [&](std::string_view why) {
    return base::fail("{}: {}; it is made anew (delete it if this is said again)", path, why);
  };
  std::error_code error;
  const uintmax_t bytes = fs::file_size(path, error);
  if (error) return refuse(error.message());
  if (bytes > kMostBytes)
    return refuse(fmt::format("{} bytes where {} are the most", bytes, kMostBytes));
  std::ifstream in(path, std::ios::binary);
  std::string text(bytes, '\0');
  if (!in.read(text.data(), static_cast<std::streamsize>(bytes)))
    return refuse("it cannot be read");
  const std::string no_hash = hash_line("");
  if (!text.starts_with(kFormat) || text.size() < kFormat.size() + no_hash.size()) {
    return refuse("not the kernels that fourfold chose for cuBLASLt, or of another version");
  }
  const std::string lines = text.substr(0, text.size() - no_hash.size());
  if (text.substr(lines.size()) != hash_line(lines)) return refuse("damaged: its hash is another");
  std::istringstream words(lines.substr(kFormat.size()));
  Entries out;
  MatmulProblem problem;
  while (words >> problem.bf16_out >> problem.rows >> problem.n >> problem.k) {
    words >> std::hex;
    for (uint64_t& word : out[problem]) words >> word;
    words >> std::dec;
  }
  if (!words.eof()) return refuse("a line is not as it was written");
  return out;
}

std::optional<AlgorithmBytes> TuningCache::find(const MatmulProblem& problem) const {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(problem);
  return it == entries_.end() ? std::nullopt : std::optional(it->second);
}

void TuningCache::add(const MatmulProblem& problem, const AlgorithmBytes& algorithm) {
  const std::lock_guard lock(mutex_);
  entries_.insert_or_assign(problem, algorithm);
  changed_ = true;
}

base::Status TuningCache::save() {
  const std::lock_guard lock(mutex_);
  if (path_.empty() || !changed_) return {};
  if (base::Result<Entries> others = read(path_); others.ok()) entries_.merge(*others);
  std::string text(kFormat);
  for (const auto& [problem, algorithm] : entries_) {
    text += fmt::format("{:d} {} {} {} {:x}\n", problem.bf16_out, problem.rows, problem.n,
                        problem.k, fmt::join(algorithm, " "));
  }
  text += hash_line(text);
  // Whole or not at all: others may be reading.
  const std::string unfinished = fmt::format("{}.{}", path_, getpid());
  std::error_code error;
  fs::create_directories(fs::path(path_).parent_path(), error);
  {
    std::ofstream out(unfinished, std::ios::binary);
    out << text;
    if (!out.flush())
      return base::fail("{} cannot be written: are its folder and disk writable?", path_);
  }
  fs::rename(unfinished, path_, error);
  if (error) return base::fail("{} cannot be written: {}", path_, error.message());
  changed_ = false;
  return {};
}

std::string tuning_cache_path(const std::string& gpu, size_t version) {
  std::string name;
  for (const char c : gpu) name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '-';
  const std::string file = fmt::format("cublaslt-{}-{}.txt", version, name);
  // NOLINTBEGIN(concurrency-mt-unsafe): nothing here sets the environment
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache == '/') {
    return fs::path(cache) / "fourfold" / file;
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
    return fs::path(home) / ".cache" / "fourfold" / file;
  }
  // NOLINTEND(concurrency-mt-unsafe)
  return "";
}

}  // namespace fourfold::backend::cuda
