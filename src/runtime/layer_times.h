#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fourfold::runtime {

/// What a layer of a step typically takes on this rank, by the number of the step's rows: the
/// median over the latest steps of about as many rows. Where there were none yet, the time of the
/// nearest smaller size is scaled by rows, which is an upper bound, or that of the nearest larger
/// one taken.
class LayerTimes {
 public:
  /// A layer of a step of `rows` >= 1 rows took `ns`, waiting for other ranks included.
  void add(int64_t rows, int64_t ns);
  /// In ns; 0 as long as nothing is known.
  int64_t typical(int64_t rows) const;

 private:
  static constexpr size_t kLatest = 15;
  struct Size {
    std::vector<int64_t> latest;  // a ring
    size_t next = 0;
    int64_t median = 0;
  };
  std::array<Size, 64> sizes_;  // by the bit width of the rows
};

}  // namespace fourfold::runtime
