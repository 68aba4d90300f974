#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/ops.h"
#include "backend/staged_ops_for_test.h"
#include "base/philox.h"

namespace fourfold::backend::testing {

/// "reference", every instruction set of "cpu" that this machine runs, and "cuda" where a GPU is.
inline std::vector<std::string> available_backends() {
  std::vector<std::string> names = {"reference"};
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512Bf16, Isa::kAmx}) {
    if (parse_isa(name_of(isa)).ok()) names.push_back("cpu/" + std::string(name_of(isa)));
  }
  if (make_ops("cuda", "").ok()) names.emplace_back("cuda");
  return names;
}

/// These with invariant numerics, then as "cpu/avx2/fast" with fast numerics.
inline std::vector<std::string> backends_in_both_numerics() {
  std::vector<std::string> names = available_backends();
  for (const std::string& name : available_backends()) names.push_back(name + "/fast");
  return names;
}

/// As the suffix of a parameterised test.
inline std::string name_of_backend(const ::testing::TestParamInfo<std::string>& backend) {
  std::string name = backend.param;
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

inline std::unique_ptr<Ops> open(const std::string& name) {
  const std::string made = name.ends_with("/fast") ? name.substr(0, name.size() - 5) : name;
  const size_t slash = made.find('/');
  std::unique_ptr<Ops> ops =
      make_ops(made.substr(0, slash), slash == std::string::npos ? "" : made.substr(slash + 1))
          .value();
  if (ops->in_host_memory()) return ops;
  return std::make_unique<StagedOps>(std::move(ops));
}

inline float rounded_to_bf16(float x) { return tensor::to_f32(tensor::to_bf16(x)); }

/// Numbers in [-1, 1) that bf16 holds exactly, so that every backend computes on the same inputs.
inline std::vector<float> random_values(uint64_t seed, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    const auto bits = base::philox(seed, {static_cast<uint32_t>(i), 0, 0, 0});
    values[i] = rounded_to_bf16(2 * base::uniform_unit(bits[0]) - 1);
  }
  return values;
}

/// Sum of squared differences over the sum of squares.
inline double nmse(const std::vector<float>& got, const std::vector<float>& expected) {
  if (got.size() != expected.size()) return INFINITY;
  double error = 0;
  double power = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = double{got[i]} - double{expected[i]};
    error += difference * difference;
    power += double{expected[i]} * double{expected[i]};
  }
  if (error == 0) return 0;
  return error / power;
}

/// Equality of bits: tells -0 from +0, and a NaN equals itself.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

/// A view with memory of its own.
class Owned {
 public:
  Owned(DType dtype, tensor::Shape shape)
      : bytes_(static_cast<size_t>(shape.elements() * tensor::size_of(dtype)) + 1) {
    view_ = {bytes_.data(), dtype, shape};
  }
  /// f32 or bf16 from floats.
  Owned(DType dtype, tensor::Shape shape, const std::vector<float>& values) : Owned(dtype, shape) {
    CHECK(std::ssize(values) == shape.elements(), "{} values for {} elements", values.size(),
          shape.elements());
    for (size_t i = 0; i < values.size(); ++i) {
      if (dtype == DType::kF32) {
        view_.f32()[i] = values[i];
      } else {
        view_.bf16()[i] = tensor::to_bf16(values[i]);
      }
    }
  }
  explicit Owned(const std::vector<int32_t>& values) : Owned(DType::kI32, {std::ssize(values)}) {
    std::copy(values.begin(), values.end(), view_.i32());
  }

  const View& view() const { return view_; }
  std::vector<float> values() const {
    std::vector<float> out(static_cast<size_t>(view_.shape.elements()));
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = view_.dtype == DType::kF32 ? view_.f32()[i] : tensor::to_f32(view_.bf16()[i]);
    }
    return out;
  }

 private:
  std::vector<std::byte> bytes_;  // from operator new: aligned for every element type
  View view_;
};

/// A backend with a stream and an arena of exactly the size it asks for.
struct Device {
  explicit Device(const std::string& name, int threads = 1, Ops::Limits limits = {})
      : ops(open(name)),
        stream(ops->make_stream(threads, {})),
        arena(ops->allocate(ops->scratch_bytes(threads, limits)).value()) {
    if (name.ends_with("/fast")) stream->numerics = base::Numerics::kFast;
  }

  std::unique_ptr<Ops> ops;
  std::unique_ptr<Stream> stream;
  Arena arena;
};

/// A row-major matrix [rows, columns].
struct Matrix {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<float> values;

  static Matrix random(uint64_t seed, int64_t rows, int64_t columns) {
    return {rows, columns, random_values(seed, rows * columns)};
  }
  Matrix part(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end) const {
    Matrix out{row_end - row_begin, column_end - column_begin, {}};
    for (int64_t r = row_begin; r < row_end; ++r) {
      const auto row = values.begin() + r * columns;
      out.values.insert(out.values.end(), row + column_begin, row + column_end);
    }
    return out;
  }
};

inline WeightPtr load(const Device& device, const Matrix& w, std::vector<int64_t> slice_ends) {
  const auto read = [&](int64_t row, std::span<float> out) {
    std::copy_n(w.values.begin() + row * w.columns, w.columns, out.begin());
    return base::Status();
  };
  return device.ops
      ->load_matrix(*device.stream, {w.rows, w.columns, std::move(slice_ends)}, {.read = read})
      .value();
}

/// x w^T with an arena of its own.
inline std::vector<float> multiply(const std::string& backend, const Matrix& x, const Matrix& w,
                                   std::vector<int64_t> slice_ends, int threads = 1) {
  Device device(backend, threads, {.rows = x.rows, .columns = x.columns});
  const WeightPtr weight = load(device, w, std::move(slice_ends));
  const Owned in(device.ops->activation_dtype(), {x.rows, x.columns}, x.values);
  const Owned out(DType::kF32, {x.rows, w.rows});
  device.ops->matmul(*device.stream, device.arena, in.view(), {{*weight, out.view()}});
  return out.values();
}

/// Ends of slices [first, last) of K, from the first one's begin, by the rule of docs/numerics.md.
inline std::vector<int64_t> slice_ends(int64_t k, int64_t granule, int64_t first = 0,
                                       int64_t last = 8) {
  const int64_t granules = (k + granule - 1) / granule;
  const auto boundary = [&](int64_t i) { return std::min(k, i * granules / 8 * granule); };
  std::vector<int64_t> ends;
  for (int64_t i = first; i < last; ++i) ends.push_back(boundary(i + 1) - boundary(first));
  return ends;
}

/// Sequences in a paged cache, and attention of some of their rows.
struct AttentionCase {
  int64_t head_dim = 64;
  int64_t kv_heads = 1;
  int64_t heads_per_kv_head = 1;
  int64_t block_size = 16;
  int64_t window = 0;
  std::vector<int64_t> lengths = {1};
  /// (sequence, position) of each row.
  std::vector<std::pair<int32_t, int32_t>> rows;

  /// The last `count` rows of every sequence.
  void query_last(int64_t count) {
    rows.clear();
    for (size_t s = 0; s < lengths.size(); ++s) {
      for (int64_t p = std::max<int64_t>(0, lengths[s] - count); p < lengths[s]; ++p) {
        rows.emplace_back(static_cast<int32_t>(s), static_cast<int32_t>(p));
      }
    }
  }
};

/// Writes all keys and values with kv_write and returns the attention of `rows`. Keys, values and
/// queries depend on (sequence, position, head) alone.
inline std::vector<float> attend(const std::string& backend, const AttentionCase& c,
                                 int threads = 1) {
  const int64_t heads = c.kv_heads * c.heads_per_kv_head;
  Device device(backend, threads,
                {.rows = std::ssize(c.rows), .heads = heads, .head_dim = c.head_dim});
  const auto sequences = std::ssize(c.lengths);
  const int64_t longest = *std::max_element(c.lengths.begin(), c.lengths.end());
  const int64_t table_width = (longest + c.block_size - 1) / c.block_size;
  const int64_t blocks = sequences * table_width;
  const int64_t elements = blocks * c.kv_heads * c.block_size * c.head_dim;
  // What was never written is NaN: reading it shows.
  const std::vector<float> unwritten(static_cast<size_t>(elements), NAN);
  const Owned keys(device.ops->kv_dtype(), {elements}, unwritten);
  const Owned values(device.ops->kv_dtype(), {elements}, unwritten);
  const KvLayer cache{keys.view().data, values.view().data, blocks,
                      c.kv_heads,       c.block_size,       c.head_dim};
  // Blocks of a sequence lie in falling order and between those of others.
  const Owned tables(DType::kI32, {sequences, table_width});
  for (int64_t s = 0; s < sequences; ++s) {
    for (int64_t b = 0; b < table_width; ++b) {
      tables.view().i32()[s * table_width + b] =
          static_cast<int32_t>((table_width - 1 - b) * sequences + s);
    }
  }
  const auto layout = [&](const std::vector<std::pair<int32_t, int32_t>>& at,
                          const Owned& positions, const Owned& owners) {
    for (size_t i = 0; i < at.size(); ++i) {
      owners.view().i32()[i] = at[i].first;
      positions.view().i32()[i] = at[i].second;
    }
    return RowLayout{positions.view(), owners.view(), tables.view()};
  };
  const auto vectors = [&](uint64_t seed, const std::vector<std::pair<int32_t, int32_t>>& at,
                           int64_t count) {
    std::vector<float> out;
    for (const auto& [sequence, position] : at) {
      const auto row = random_values(
          seed + 100003 * static_cast<uint64_t>(sequence) + 7 * static_cast<uint64_t>(position),
          count * c.head_dim);
      for (const float value : row) out.push_back(2 * value);
    }
    return Owned(DType::kF32, {std::ssize(at), count, c.head_dim}, out);
  };

  std::vector<std::pair<int32_t, int32_t>> all;
  for (int64_t s = 0; s < sequences; ++s) {
    for (int64_t p = 0; p < c.lengths[static_cast<size_t>(s)]; ++p) {
      all.emplace_back(static_cast<int32_t>(s), static_cast<int32_t>(p));
    }
  }
  const Owned all_positions(DType::kI32, {std::ssize(all)});
  const Owned all_owners(DType::kI32, {std::ssize(all)});
  device.ops->kv_write(*device.stream, vectors(1, all, c.kv_heads).view(),
                       vectors(2, all, c.kv_heads).view(), layout(all, all_positions, all_owners),
                       cache);

  const auto count = std::ssize(c.rows);
  const Owned positions(DType::kI32, {count});
  const Owned owners(DType::kI32, {count});
  const Owned out(device.ops->activation_dtype(), {count, heads * c.head_dim});
  device.ops->attention(
      *device.stream, device.arena, vectors(3, c.rows, heads).view(),
      layout(c.rows, positions, owners), cache,
      {.scale = 1 / std::sqrt(static_cast<float>(c.head_dim)), .window = c.window}, out.view());
  return out.values();
}

}  // namespace fourfold::backend::testing
