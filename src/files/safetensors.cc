#include "files/safetensors.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "files/json.h"
#include "files/printable.h"

namespace fourfold::files {

using base::Error;
using base::fail;
using base::Result;
using nlohmann::json;

namespace {

// The specification allows 100 MB. Ours hold 100,000 tensors, and the parser, which takes up to
// four times the text, stays within 64 MB.
constexpr int64_t kMaxHeaderBytes = 16'000'000;
constexpr size_t kMaxNameBytes = 1024;
// An index names each tensor in some 100 bytes.
constexpr int64_t kMaxIndexBytes = int64_t{32} << 20;
constexpr int64_t kLengthBytes = 8;

// Reads the header {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...,
// "__metadata__": {"KEY": "VALUE", ...}} from a JSON parser's events, without building a document:
// that would take many times the memory of the text. A method that returns false ends the parse
// with error(). Offsets are relative to the end of the header.
class HeaderReader final : public nlohmann::json_sax<json> {
 public:
  HeaderReader(std::string_view header, std::string_view what) : header_(header), what_(what) {}

  std::vector<TensorEntry> take() { return std::move(entries_); }
  const Error& error() const { return *error_; }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(int64_t) override { return unexpected("a negative number"); }
  bool number_float(double, const std::string&) override { return unexpected("a fraction"); }
  bool binary(json::binary_t&) override { return unexpected("binary"); }

  bool number_unsigned(uint64_t value) override {
    if (place_ != Place::kList) return unexpected("a number");
    if (value > uint64_t{INT64_MAX}) return unexpected("a number beyond 63 bits");
    std::vector<int64_t>& list = field_ == "shape" ? entry_.shape : offsets_;
    if (std::ssize(list) == kMaxDimensions) return unexpected("too many numbers");
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(std::string& value) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || field_ != "dtype") return unexpected("a string");
    const std::optional<Encoding> encoding = encoding_of_safetensors(value);
    if (!encoding) {
      return refuse(fail("{}: tensor \"{}\" has the dtype \"{}\"; fourfold reads {}", what_,
                         printable(entry_.name), printable(value), safetensors_encodings()));
    }
    entry_.encoding = *encoding;
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop && entry_.name == "__metadata__") {
      place_ = Place::kMetadata;
    } else if (place_ == Place::kTop) {
      place_ = Place::kTensor;
    } else {
      return unexpected("an object");
    }
    return true;
  }

  bool key(std::string& name) override {
    if (place_ == Place::kTop) {
      if (name.size() > kMaxNameBytes) return unexpected("a name of more than 1024 bytes");
      entry_ = {};
      entry_.name = name;
      field_.clear();
      offsets_.clear();
      fields_.clear();
    } else if (place_ == Place::kTensor) {
      field_ = name;
      if (name != "dtype" && name != "shape" && name != "data_offsets") {
        return unexpected("an unknown key");
      }
      if (!fields_.insert(name).second) return unexpected("a key that stands twice");
    }
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kTensor || field_ == "dtype") return unexpected("an array");
    place_ = Place::kList;
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor && !finish_tensor()) return false;
    place_ = Place::kTop;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    return refuse(json_syntax_error(header_, position, error, fmt::format("{}: header", what_)));
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kList };

  bool refuse(Error error) {
    error_ = std::move(error);
    return false;
  }

  bool unexpected(std::string_view found) {
    return refuse(
        fail("{} is damaged: the header has {} where it cannot stand, at \"{}\" of \"{}\"", what_,
             found, printable(field_), printable(entry_.name)));
  }

  bool finish_tensor() {
    if (fields_.size() != 3 || offsets_.size() != 2 || offsets_[0] > offsets_[1]) {
      return refuse(
          fail("{} is damaged: tensor \"{}\" needs a dtype, a shape and data_offsets "
               "[begin, end]",
               what_, printable(entry_.name)));
    }
    const auto bytes = tensor_bytes(entry_.name, entry_.encoding, entry_.shape);
    if (!bytes.ok()) return refuse(fail("{} is damaged: {}", what_, bytes.error().message));
    if (*bytes != offsets_[1] - offsets_[0]) {
      return refuse(
          fail("{} is damaged: tensor \"{}\" takes {} bytes by dtype and shape, but {} by "
               "data_offsets",
               what_, printable(entry_.name), *bytes, offsets_[1] - offsets_[0]));
    }
    if (std::ssize(entries_) == kMaxTensors) {
      return refuse(fail("{}: more than {} tensors", what_, kMaxTensors));
    }
    entry_.offset = offsets_[0];
    entry_.bytes = *bytes;
    entries_.push_back(entry_);
    return true;
  }

  std::string_view header_;
  std::string_view what_;
  Place place_ = Place::kStart;
  std::string field_;             // the last key inside a tensor
  std::set<std::string> fields_;  // all keys of this tensor so far
  std::vector<int64_t> offsets_;  // its data_offsets
  TensorEntry entry_;
  std::vector<TensorEntry> entries_;
  std::optional<Error> error_;
};

// The shards of a model, each with the tensors that the index places in it.
using Shards = std::map<std::string, std::vector<std::string>>;

Result<Shards> read_index(const std::filesystem::path& index_path) {
  FF_ASSIGN(const json index, parse_json_file(index_path, {.max_bytes = kMaxIndexBytes,
                                                           .max_values = 2 * kMaxTensors}));
  const std::string what = index_path.string();
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object() || map->empty()) {
    return fail("expected an object \"weight_map\" of tensors in {}", what);
  }
  Shards shards;
  for (const auto& [tensor, shard] : map->items()) {
    FF_ASSIGN(std::string name, json_get<std::string>(*map, tensor, what));
    // A name, not a path: an index may not point outside its folder.
    if (name.empty() || name == "." || name == ".." ||
        name.find_first_of(std::string_view("/\0", 2)) != name.npos) {
      return fail("expected the name of a shard for \"{}\" in {}, found \"{}\"", printable(tensor),
                  what, printable(name));
    }
    shards[std::move(name)].push_back(tensor);
  }
  return shards;
}

Result<TensorStore> open_sharded(const std::filesystem::path& folder,
                                 const std::filesystem::path& index_path) {
  FF_ASSIGN(const Shards shards, read_index(index_path));
  std::string missing;
  for (const auto& [shard, tensors] : shards) {
    std::error_code ignored;
    if (!std::filesystem::exists(folder / shard, ignored)) missing += ' ' + printable(shard);
  }
  if (!missing.empty()) {
    return fail("{} lacks shards that its index names; download them:{}", folder.string(), missing);
  }
  std::vector<MappedFile> files;
  std::vector<TensorEntry> entries;
  for (const auto& [shard, tensors] : shards) {
    FF_ASSIGN(MappedFile file, MappedFile::open(folder / shard));
    FF_ASSIGN(std::vector<TensorEntry> held, parse_safetensors(file.bytes(), file.path()));
    std::ranges::sort(held, {}, &TensorEntry::name);
    for (const std::string& tensor : tensors) {
      const auto found = std::ranges::lower_bound(held, tensor, {}, &TensorEntry::name);
      if (found == held.end() || found->name != tensor) {
        return fail(
            "{} does not hold the tensor \"{}\", which {} places there: the files belong to "
            "different downloads",
            file.path(), printable(tensor), index_path.string());
      }
      entries.push_back(*found);
      entries.back().file = files.size();
    }
    files.push_back(std::move(file));
  }
  return TensorStore::create(std::move(files), std::move(entries));
}

}  // namespace

Result<std::vector<TensorEntry>> parse_safetensors(std::span<const std::byte> file,
                                                   std::string_view what) {
  const int64_t size = std::ssize(file);
  if (size < kLengthBytes) return truncated(what, kLengthBytes, size);
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > uint64_t{kMaxHeaderBytes}) {
    return fail("{} is not a safetensors file: it claims a header of {} bytes, at most {} are read",
                what, length, kMaxHeaderBytes);
  }
  const int64_t data = kLengthBytes + static_cast<int64_t>(length);
  if (size < data) return truncated(what, data, size);
  const std::string_view header(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (!header.starts_with('{')) {
    return fail("{} is not a safetensors file: its header does not begin with '{{'", what);
  }
  HeaderReader reader(header, what);
  if (!json::sax_parse(header, &reader)) return reader.error();

  std::vector<TensorEntry> entries = reader.take();
  FF_TRY(sort_by_offset(entries, what));
  int64_t end = 0;
  for (const TensorEntry& entry : entries) {
    if (entry.offset != end) {
      return fail("{} is damaged: {} bytes before the tensor \"{}\" belong to no tensor", what,
                  entry.offset - end, printable(entry.name));
    }
    end += entry.bytes;
  }
  if (size - data < end) return truncated(what, data + end, size);
  if (size - data > end) {
    return fail("{} is damaged: {} bytes after the last tensor: download it again", what,
                size - data - end);
  }
  for (TensorEntry& entry : entries) entry.offset += data;
  return entries;
}

Result<TensorStore> open_safetensors(const std::filesystem::path& path) {
  FF_ASSIGN(MappedFile file, MappedFile::open(path));
  FF_ASSIGN(std::vector<TensorEntry> entries, parse_safetensors(file.bytes(), file.path()));
  std::vector<MappedFile> files;
  files.push_back(std::move(file));
  return TensorStore::create(std::move(files), std::move(entries));
}

Result<TensorStore> open_safetensors_folder(const std::filesystem::path& folder) {
  const auto index_path = folder / "model.safetensors.index.json";
  const auto single_path = folder / "model.safetensors";
  std::error_code ignored;
  if (std::filesystem::exists(index_path, ignored)) return open_sharded(folder, index_path);
  if (std::filesystem::exists(single_path, ignored)) return open_safetensors(single_path);
  return fail("{} has neither model.safetensors nor model.safetensors.index.json", folder.string());
}

}  // namespace fourfold::files
