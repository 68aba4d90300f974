#include "backend/ops.h"

namespace fourfold::backend {

RowTiles tiles_of(std::span<const int32_t> sequences) {
  RowTiles out;
  std::vector<int32_t> longer;
  for (size_t begin = 0; begin < sequences.size();) {
    size_t end = begin + 1;
    while (end < sequences.size() && sequences[end] == sequences[begin] &&
           end - begin < static_cast<size_t>(kTileRows)) {
      ++end;
    }
    std::vector<int32_t>& to = end - begin == 1 ? out.entries : longer;
    to.push_back(static_cast<int32_t>(begin));
    to.push_back(static_cast<int32_t>(end - begin));
    begin = end;
  }
  out.single = std::ssize(out.entries) / 2;
  out.entries.insert(out.entries.end(), longer.begin(), longer.end());
  return out;
}

}  // namespace fourfold::backend
