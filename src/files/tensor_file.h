#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "files/encoding.h"
#include "files/mapped_file.h"

namespace fourfold::files {

/// A tensor of a file: where its bytes lie and what they mean.
struct TensorEntry {
  std::string name;
  Encoding encoding = Encoding::kF32;
  /// Outermost dimension first, as in PyTorch: [rows, columns]. Quantised blocks lie along the
  /// last.
  std::vector<int64_t> shape;
  /// The first byte, counted from the start of the file, and the number of bytes.
  int64_t offset = 0;
  int64_t bytes = 0;
  /// Which of the store's files.
  size_t file = 0;

  /// The 2-D view: the last dimension is the columns, all others together are the rows. A 1-D
  /// tensor is [1, n], a scalar [1, 1].
  int64_t rows() const;
  int64_t columns() const;
};

/// The tensors of a model, in one file or several, whose layout was checked when they were opened.
/// Thread-safe; moving a store keeps the addresses of its entries and bytes.
class TensorStore {
 public:
  /// Each entry lies inside its file. Errors: a name that stands twice, more than kMaxTensors.
  static base::Result<TensorStore> create(std::vector<MappedFile> files,
                                          std::vector<TensorEntry> entries);

  /// nullptr if there is no such tensor.
  const TensorEntry* find(std::string_view name) const;
  /// All tensors in the order of their names.
  std::span<const TensorEntry> entries() const { return entries_; }
  std::span<const MappedFile> files() const { return files_; }

  /// Decodes rows [row_begin, row_end) x columns [column_begin, column_end) of the 2-D view of an
  /// entry of this store into out, row-major fp32. Reads the bytes of that cut and no others.
  /// Errors: a cut outside the tensor or through a quantisation block, out.size() not the size of
  /// the cut, a tensor of integers.
  base::Status read_rows(const TensorEntry& entry, int64_t row_begin, int64_t row_end,
                         int64_t column_begin, int64_t column_end, std::span<float> out) const;

  /// Copies the same cut as its bytes lie in the file, row after row. Errors: as of read_rows,
  /// where integers are as good as others; the file was shortened since it was opened.
  base::Status read_bytes(const TensorEntry& entry, int64_t row_begin, int64_t row_end,
                          int64_t column_begin, int64_t column_end, std::span<std::byte> out) const;

  /// Starts reading rows [row_begin, row_end) of an entry from disk in the background; and gives
  /// back the memory of rows that were read. They stay readable.
  void will_need(const TensorEntry& entry, int64_t row_begin, int64_t row_end) const;
  void release(const TensorEntry& entry, int64_t row_begin, int64_t row_end) const;

  /// Bytes of tensors that read_rows and read_bytes have given so far.
  int64_t bytes_read() const { return bytes_read_->load(std::memory_order_relaxed); }

 private:
  /// Where the bytes of a cut of one row are in the file.
  struct Place {
    int64_t offset;
    int64_t bytes;
  };
  static Place place_of(const TensorEntry& entry, int64_t row, int64_t column_begin,
                        int64_t column_end);
  static base::Status check_cut(const TensorEntry& entry, int64_t row_begin, int64_t row_end,
                                int64_t column_begin, int64_t column_end);

  TensorStore(std::vector<MappedFile> files, std::vector<TensorEntry> entries);

  std::vector<MappedFile> files_;
  std::vector<TensorEntry> entries_;  // sorted by name
  std::unique_ptr<std::atomic<int64_t>> bytes_read_;
};

/// Limits on what a file may declare, so that a hostile one is refused before it costs memory. 61
/// layers of 384 experts, three matrices each with their scales, make 140,000 tensors.
inline constexpr int64_t kMaxTensors = int64_t{1} << 18;
inline constexpr int64_t kMaxDimensions = 8;

/// The bytes of a tensor. Errors (naming `name`): a negative dimension, a product that overflows,
/// a row that is not a whole number of blocks.
base::Result<int64_t> tensor_bytes(std::string_view name, Encoding encoding,
                                   std::span<const int64_t> shape);

/// Sorts entries of one file by where their data begin and refuses an overlap of two.
base::Status sort_by_offset(std::vector<TensorEntry>& entries, std::string_view what);

/// The error of a file that ends before its content does.
base::Error truncated(std::string_view what, int64_t bytes_expected, int64_t bytes_found);

}  // namespace fourfold::files
