#include "files/tensor_file.h"

#include <algorithm>
#include <utility>

#include "base/sizes.h"
#include "files/printable.h"

namespace fourfold::files {

using base::fail;
using base::Result;
using base::Status;

int64_t TensorEntry::rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

int64_t TensorEntry::columns() const { return shape.empty() ? 1 : shape.back(); }

Result<TensorStore> TensorStore::create(std::vector<MappedFile> files,
                                        std::vector<TensorEntry> entries) {
  if (std::ssize(entries) > kMaxTensors) {
    return fail("{}: {} tensors; at most {} are read", files.front().path(), entries.size(),
                kMaxTensors);
  }
  for (const TensorEntry& e : entries) {
    CHECK(e.file < files.size() && e.offset >= 0 && e.bytes >= 0 &&
              e.offset <= files[e.file].size() - e.bytes,
          "{}: [{}, +{}) of file {}", e.name, e.offset, e.bytes, e.file);
  }
  std::ranges::sort(entries, {}, &TensorEntry::name);
  const auto twice = std::ranges::adjacent_find(entries, {}, &TensorEntry::name);
  if (twice != entries.end()) {
    return fail("{}: the tensor \"{}\" stands twice", files[twice->file].path(),
                printable(twice->name));
  }
  return TensorStore(std::move(files), std::move(entries));
}

TensorStore::TensorStore(std::vector<MappedFile> files, std::vector<TensorEntry> entries)
    : files_(std::move(files)),
      entries_(std::move(entries)),
      bytes_read_(std::make_unique<std::atomic<int64_t>>(0)) {}

const TensorEntry* TensorStore::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(entries_, name, {}, &TensorEntry::name);
  return found != entries_.end() && found->name == name ? &*found : nullptr;
}

Status TensorStore::read_rows(const TensorEntry& entry, int64_t row_begin, int64_t row_end,
                              int64_t column_begin, int64_t column_end,
                              std::span<float> out) const {
  const int64_t columns = entry.columns();
  const bool inside = 0 <= row_begin && row_begin <= row_end && row_end <= entry.rows() &&
                      0 <= column_begin && column_begin <= column_end && column_end <= columns;
  if (!inside) {
    return fail("rows [{}, {}) x columns [{}, {}) lie outside \"{}\", which is {} x {}", row_begin,
                row_end, column_begin, column_end, printable(entry.name), entry.rows(), columns);
  }
  const int64_t block = block_size(entry.encoding);
  if (column_begin % block != 0 || column_end % block != 0) {
    return fail("columns [{}, {}) cut through a block of \"{}\": {} has blocks of {}", column_begin,
                column_end, printable(entry.name), encoding_name(entry.encoding), block);
  }
  const int64_t row_elements = column_end - column_begin;
  if (std::ssize(out) != (row_end - row_begin) * row_elements) {
    return fail("a cut of {} x {} of \"{}\" does not fit {} floats", row_end - row_begin,
                row_elements, printable(entry.name), out.size());
  }
  if (out.empty()) return {};

  const MappedFile& file = files_[entry.file];
  const int64_t file_stride = columns / block * block_bytes(entry.encoding);
  const int64_t row_bytes = row_elements / block * block_bytes(entry.encoding);
  const int64_t begin =
      entry.offset + row_begin * file_stride + column_begin / block * block_bytes(entry.encoding);
  const int64_t span = (row_end - row_begin - 1) * file_stride + row_bytes;
  // Whole rows lie side by side: one piece, which the kernel may as well fetch at once.
  const bool whole = row_bytes == file_stride;
  if (whole) file.will_need(begin, span);
  const int64_t pieces = whole ? 1 : row_end - row_begin;
  const int64_t piece_bytes = whole ? span : row_bytes;
  const int64_t piece_elements = std::ssize(out) / pieces;
  for (int64_t i = 0; i < pieces; ++i) {
    FF_TRY(decode_row(
        entry.encoding,
        file.bytes().subspan(static_cast<size_t>(begin + i * file_stride),
                             static_cast<size_t>(piece_bytes)),
        out.subspan(static_cast<size_t>(i * piece_elements), static_cast<size_t>(piece_elements))));
  }
  // What was decoded is not needed again; a rank's memory is to hold its weights once.
  file.release(begin, span);
  bytes_read_->fetch_add(pieces * piece_bytes, std::memory_order_relaxed);
  return {};
}

Result<int64_t> tensor_bytes(std::string_view name, Encoding encoding,
                             std::span<const int64_t> shape) {
  int64_t elements = 1;
  for (const int64_t dimension : shape) {
    const auto product = base::checked_mul(elements, dimension, "shape");
    if (!product.ok()) {
      return fail("tensor \"{}\": {}", printable(name), product.error().message);
    }
    elements = *product;
  }
  const int64_t columns = shape.empty() ? 1 : shape.back();
  if (columns % block_size(encoding) != 0) {
    return fail("tensor \"{}\": rows of {} elements are not whole blocks of {} ({} elements)",
                printable(name), columns, encoding_name(encoding), block_size(encoding));
  }
  const auto bytes =
      base::checked_mul(elements / block_size(encoding), block_bytes(encoding), "bytes");
  if (!bytes.ok()) return fail("tensor \"{}\": {}", printable(name), bytes.error().message);
  return *bytes;
}

Status sort_by_offset(std::vector<TensorEntry>& entries, std::string_view what) {
  std::ranges::sort(entries, {}, [](const TensorEntry& e) { return std::pair(e.offset, e.bytes); });
  for (size_t i = 1; i < entries.size(); ++i) {
    const TensorEntry& before = entries[i - 1];
    if (entries[i].offset < before.offset + before.bytes) {
      return fail("{} is damaged: the data of the tensors \"{}\" and \"{}\" overlap", what,
                  printable(before.name), printable(entries[i].name));
    }
  }
  return {};
}

base::Error truncated(std::string_view what, int64_t bytes_expected, int64_t bytes_found) {
  return fail("{} is truncated: {} bytes are missing (it has {} of {}): download it again", what,
              bytes_expected - bytes_found, bytes_found, bytes_expected);
}

}  // namespace fourfold::files
