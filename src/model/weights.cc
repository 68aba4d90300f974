#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "base/sizes.h"

namespace fourfold::model {
namespace {

/// Mixes a counter into 64 random bits (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014).
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

/// Element (row, column) of a dummy matrix is uniform with variance 1/columns, so that activations
/// stay finite in any depth, and depends on the seed, the parameter and its coordinates alone.
void fill_dummy_row(uint64_t seed, const Param& param, int64_t row, int64_t column_begin,
                    std::span<float> out) {
  const uint64_t place =
      static_cast<uint64_t>(param.layer) ^ (static_cast<uint64_t>(param.expert + 1) << 32);
  const uint64_t key = mix(mix(mix(seed) ^ static_cast<uint64_t>(param.kind)) ^ place) ^
                       mix(static_cast<uint64_t>(row));
  const float scale = std::sqrt(3.0F / static_cast<float>(param.columns));
  for (size_t i = 0; i < out.size(); ++i) {
    const uint64_t bits = mix(key + static_cast<uint64_t>(column_begin) + i);
    out[i] = scale * (static_cast<float>(bits >> 40) * 0x1p-23F - 1.0F);
  }
}

/// The row of the file's tensor that holds row `row` of the parameter.
int64_t file_row(const Param& param, int64_t row) {
  const int64_t d = param.interleaved_head_dim;
  if (d == 0) return param.first_row + row;
  const int64_t head = row / d;
  const int64_t i = row % d;
  return param.first_row + head * d + (i < d / 2 ? 2 * i : 2 * (i - d / 2) + 1);
}

/// Reads columns [begin, begin + out.size()) of a row, widening to whole quantisation blocks where
/// the shard's border is inside one.
base::Status read_row(const files::TensorStore& tensors, const files::TensorEntry& entry,
                      int64_t row, int64_t begin, std::span<float> out) {
  const int64_t block = files::block_size(entry.encoding);
  const int64_t end = begin + static_cast<int64_t>(out.size());
  const int64_t wide_begin = begin / block * block;
  const int64_t wide_end = base::round_up(end, block);
  if (wide_begin == begin && wide_end == end) {
    return tensors.read_rows(entry, row, row + 1, begin, end, out);
  }
  std::vector<float> scratch(static_cast<size_t>(wide_end - wide_begin));
  FF_TRY(tensors.read_rows(entry, row, row + 1, wide_begin, wide_end, scratch));
  std::copy_n(scratch.begin() + (begin - wide_begin), out.size(), out.begin());
  return {};
}

backend::RowReader dummy_reader(const ModelSource& source, const Param& param,
                                const ParamShard& shard) {
  return {.read = [&source, &param, shard](int64_t row, std::span<float> out) -> base::Status {
    if (is_norm(param.kind)) {
      std::fill(out.begin(), out.end(), 1.0F);
    } else {
      fill_dummy_row(source.dummy_seed, param, shard.rows.begin + row, shard.columns.begin, out);
    }
    return {};
  }};
}

/// Reads rows of bf16 as they lie in the file, neighbours in one go.
base::Status read_bf16_rows(const files::TensorStore& tensors, const files::TensorEntry& entry,
                            const Param& param, const ParamShard& shard, int64_t begin, int64_t end,
                            std::span<uint16_t> out) {
  const std::span<std::byte> bytes = std::as_writable_bytes(out);
  const auto row_bytes = static_cast<size_t>(shard.columns.size()) * sizeof(uint16_t);
  while (begin < end) {
    const int64_t first = file_row(param, shard.rows.begin + begin);
    int64_t count = 1;
    while (begin + count < end &&
           file_row(param, shard.rows.begin + begin + count) == first + count) {
      ++count;
    }
    FF_TRY(tensors.read_bytes(
        entry, first, first + count, shard.columns.begin, shard.columns.end,
        bytes.subspan(bytes.size() - static_cast<size_t>(end - begin) * row_bytes,
                      static_cast<size_t>(count) * row_bytes)));
    begin += count;
  }
  return {};
}

backend::RowReader file_reader(const files::TensorStore& tensors, const Param& param,
                               const ParamShard& shard) {
  const files::TensorEntry* entry = tensors.find(param.name);
  CHECK(entry != nullptr, "open_model let a model pass without {}", param.name);
  backend::RowReader reader;
  reader.read = [&tensors, &param, shard, entry](int64_t row,
                                                 std::span<float> out) -> base::Status {
    FF_TRY(read_row(tensors, *entry, file_row(param, shard.rows.begin + row), shard.columns.begin,
                    out));
    if (param.offset != 0) {
      for (float& x : out) x += param.offset;
    }
    return {};
  };
  const int64_t first = param.first_row + shard.rows.begin;
  tensors.will_need(*entry, first, first + shard.rows.size());
  if (entry->encoding == files::Encoding::kBF16 && param.offset == 0) {
    reader.bf16 = [&tensors, &param, shard, entry](int64_t begin, int64_t end,
                                                   std::span<uint16_t> out) {
      return read_bf16_rows(tensors, *entry, param, shard, begin, end, out);
    };
    constexpr int64_t kBytes = sizeof(uint16_t);
    reader.bf16_offset =
        (entry->offset + (first * entry->columns() + shard.columns.begin) * kBytes) % 64;
    return reader;
  }
  // Interleaved rows stay inside their head, so these are about the rows of the file, too. What was
  // loaded is not needed again: a rank's memory is to hold its weights once.
  reader.loaded = [&tensors, first, entry](int64_t begin, int64_t end) {
    tensors.release(*entry, first + begin, first + end);
  };
  return reader;
}

/// The reader of a parameter; whenever it has read some rows is a mark of progress.
backend::RowReader make_reader(const ModelSource& source, const Param& param,
                               const ParamShard& shard, comm::Progress* progress) {
  backend::RowReader reader = source.tensors == nullptr
                                  ? dummy_reader(source, param, shard)
                                  : file_reader(*source.tensors, param, shard);
  if (progress == nullptr) return reader;
  reader.loaded = [loaded = std::move(reader.loaded), progress](int64_t begin, int64_t end) {
    progress->advance();
    if (loaded) loaded(begin, end);
  };
  return reader;
}

int64_t param_bytes(const backend::Ops& ops, const Param& param, const ParamShard& shard) {
  if (param.is_vector) return shard.columns.size() * static_cast<int64_t>(sizeof(float));
  return ops.matrix_bytes(shard.shape());
}

}  // namespace

base::Result<Weights> Weights::load(const ModelSource& source, const backend::Ops& ops,
                                    backend::Stream& stream, const RankShare& share,
                                    comm::Progress* progress) {
  const ModelSpec& spec = source.spec;
  const std::vector<int> split = layer_split(spec, share.pp);
  const int64_t read_before = source.tensors == nullptr ? 0 : source.tensors->bytes_read();
  Weights out;
  const auto keep = [&](const Param& param, backend::WeightPtr weight) {
    const Key key(param.kind, param.layer);
    if (param.expert < 0) {
      out.weights_.emplace(key, weight.get());
    } else {
      // Experts stand in rising order in the spec, as they do in the share.
      out.experts_[key].push_back(weight.get());
    }
    out.owned_.push_back(std::move(weight));
  };
  std::vector<const Param*> matrices;
  std::vector<backend::MatrixSource> sources;
  for (const Param& param : spec.params) {
    if (!stage_holds(spec, param, split, share.stage)) continue;
    const std::optional<ParamShard> shard = shard_of(spec, param, share);
    if (!shard) continue;
    const auto open = [&source, &param, shard = *shard, progress] {
      if (progress != nullptr) progress->enter(comm::Operation::kLoad, param.layer);
      return make_reader(source, param, shard, progress);
    };
    if (!param.is_vector) {
      matrices.push_back(&param);
      sources.push_back({shard->shape(), open});
      continue;
    }
    std::vector<float> values(static_cast<size_t>(shard->columns.size()));
    FF_TRY(open().read(0, values));
    FF_ASSIGN(backend::WeightPtr weight, ops.load_vector(values));
    keep(param, std::move(weight));
  }
  FF_ASSIGN(std::vector<backend::WeightPtr> loaded, ops.load_matrices(stream, sources));
  for (size_t i = 0; i < loaded.size(); ++i) keep(*matrices[i], std::move(loaded[i]));
  if (source.tensors != nullptr) {
    out.file_bytes_read_ = source.tensors->bytes_read() - read_before;
  }
  return out;
}

const backend::Weight* Weights::find(ParamKind kind, int32_t layer) const {
  const auto it = weights_.find({kind, layer});
  return it == weights_.end() ? nullptr : it->second;
}

const backend::Weight& Weights::get(ParamKind kind, int32_t layer) const {
  const backend::Weight* weight = find(kind, layer);
  CHECK(weight != nullptr, "no weight of kind {} in layer {}", static_cast<int>(kind), layer);
  return *weight;
}

std::span<const backend::Weight* const> Weights::experts(ParamKind kind, int32_t layer) const {
  const auto it = experts_.find({kind, layer});
  if (it == experts_.end()) return {};
  return it->second;
}

int64_t Weights::bytes() const {
  int64_t n = 0;
  for (const backend::WeightPtr& weight : owned_) n += weight->bytes();
  return n;
}

int64_t weight_bytes(const ModelSpec& spec, const backend::Ops& ops, const RankShare& share) {
  const std::vector<int> split = layer_split(spec, share.pp);
  int64_t n = 0;
  for (const Param& param : spec.params) {
    if (!stage_holds(spec, param, split, share.stage)) continue;
    if (const std::optional<ParamShard> shard = shard_of(spec, param, share)) {
      n += param_bytes(ops, param, *shard);
    }
  }
  return n;
}

int64_t kv_block_bytes(const ModelSpec& spec, const backend::Ops& ops, const RankShare& share,
                       int64_t block_size) {
  const std::vector<int> split = layer_split(spec, share.pp);
  const auto stage = static_cast<size_t>(share.stage);
  int64_t n = 0;
  for (int i = split[stage]; i < split[stage + 1]; ++i) {
    const AttentionSpec& attention = spec.layers[static_cast<size_t>(i)].attention;
    n += 2 * kv_head_range(attention, share.tp, share.shard).size() * block_size *
         attention.head_dim * size_of(ops.kv_dtype());
  }
  return n;
}

}  // namespace fourfold::model
