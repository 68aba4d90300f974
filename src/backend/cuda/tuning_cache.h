#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "base/result.h"

namespace fourfold::backend::cuda {

/// A matmul as cuBLASLt sees it: out [rows][n] = x [rows][k] times w [n][k] transposed.
struct MatmulProblem {
  bool bf16_out = false;  ///< else fp32
  int64_t rows = 0;
  int64_t n = 0;
  int64_t k = 0;
  auto operator<=>(const MatmulProblem&) const = default;
};

/// A cublasLtMatmulAlgo_t. NVIDIA allows to keep its bytes for the same version of the library.
using AlgorithmBytes = std::array<uint64_t, 8>;

/// The kernels that won on one kind of GPU with one version of cuBLASLt, in a file, so that only
/// the first start takes the time to compare them. Used by any threads; of several processes that
/// save at once one may lose what it found, which is then found again.
class TuningCache {
 public:
  /// Reads `path` if it is there; "": keeps nothing.
  explicit TuningCache(std::string path);

  /// Why the file that was there is not used; "" where it is, or there was none.
  const std::string& refused() const { return refused_; }

  std::optional<AlgorithmBytes> find(const MatmulProblem& problem) const;
  void add(const MatmulProblem& problem, const AlgorithmBytes& algorithm);

  /// Writes what was added, and what others have written meanwhile, in place of the file.
  base::Status save();

 private:
  using Entries = std::map<MatmulProblem, AlgorithmBytes>;
  static base::Result<Entries> read(const std::string& path);

  std::string path_;
  std::string refused_;
  mutable std::mutex mutex_;
  Entries entries_;
  bool changed_ = false;
};

/// $XDG_CACHE_HOME/fourfold or ~/.cache/fourfold, and a file there named after the GPU and the
/// version; "" where neither variable is set.
std::string tuning_cache_path(const std::string& gpu, size_t version);

}  // namespace fourfold::backend::cuda
