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

namespace {

/// Bytes from row to row.
int64_t row_stride(const TensorEntry& entry) {
  return entry.columns() / block_size(entry.encoding) * block_bytes(entry.encoding);
}

}  // namespace

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

Status TensorStore::check_cut(const TensorEntry& entry, int64_t row_begin, int64_t row_end,
                              int64_t column_begin, int64_t column_end) {
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
  return {};
}

Status TensorStore::read_rows(const TensorEntry& entry, int64_t row_begin, int64_t row_end,
                              int64_t column_begin, int64_t column_end,
                              std::span<float> out) const {
  FF_TRY(check_cut(entry, row_begin, row_end, column_begin, column_end));
  const int64_t columns = column_end - column_begin;
  if (std::ssize(out) != (row_end - row_begin) * columns) {
    return fail("a cut of {} x {} of \"{}\" does not fit {} floats", row_end - row_begin, columns,
                printable(entry.name), out.size());
  }
  if (out.empty()) return {};
  bytes_read_->fetch_add(
      (row_end - row_begin) * place_of(entry, row_begin, column_begin, column_end).bytes,
      std::memory_order_relaxed);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const Place place = place_of(entry, row, column_begin, column_end);
    FF_TRY(decode_row(entry.encoding,
                      files_[entry.file].bytes().subspan(static_cast<size_t>(place.offset),
                                                         static_cast<size_t>(place.bytes)),
                      out.subspan(static_cast<size_t>((row - row_begin) * columns),
                                  static_cast<size_t>(columns))));
  }
  return {};
}

TensorStore::Place TensorStore::place_of(const TensorEntry& entry, int64_t row,
                                         int64_t column_begin, int64_t column_end) {
  const int64_t first = column_begin / block_size(entry.encoding) * block_bytes(entry.encoding);
  const int64_t last = column_end / block_size(entry.encoding) * block_bytes(entry.encoding);
  return {entry.offset + row * row_stride(entry) + first, last - first};
}

Status TensorStore::read_bytes(const TensorEntry& entry, int64_t row_begin, int64_t row_end,
                               int64_t column_begin, int64_t column_end,
                               std::span<std::byte> out) const {
  FF_TRY(check_cut(entry, row_begin, row_end, column_begin, column_end));
  const Place first = place_of(entry, row_begin, column_begin, column_end);
  const int64_t rows = row_end - row_begin;
  if (std::ssize(out) != rows * first.bytes) {
    return fail("a cut of {} rows of {} bytes of \"{}\" does not fit {} bytes", rows, first.bytes,
                printable(entry.name), out.size());
  }
  bytes_read_->fetch_add(std::ssize(out), std::memory_order_relaxed);
  const MappedFile& file = files_[entry.file];
  // Whole rows lie one after another.
  if (first.bytes == row_stride(entry)) return file.read(first.offset, out);
  for (int64_t i = 0; i < rows; ++i) {
    FF_TRY(file.read(
        first.offset + i * row_stride(entry),
        out.subspan(static_cast<size_t>(i * first.bytes), static_cast<size_t>(first.bytes))));
  }
  return {};
}

void TensorStore::will_need(const TensorEntry& entry, int64_t row_begin, int64_t row_end) const {
  files_[entry.file].will_need(entry.offset + row_begin * row_stride(entry),
                               (row_end - row_begin) * row_stride(entry));
}

void TensorStore::release(const TensorEntry& entry, int64_t row_begin, int64_t row_end) const {
  files_[entry.file].release(entry.offset + row_begin * row_stride(entry),
                             (row_end - row_begin) * row_stride(entry));
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
