#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/sizes.h"
#include "comm/local/local_world.h"
#include "files/safetensors.h"
#include "model/decoder.h"
#include "model/source.h"
#include "model/step_inputs.h"

namespace fourfold::model {

inline const std::string kGolden = std::string(FOURFOLD_SOURCE_DIR) + "/tests/golden/";

/// The backends whose answers are compared with golden ones: "cuda" where a GPU is.
inline std::vector<std::string> golden_backends() {
  std::vector<std::string> names = {"reference", "cpu"};
  if (backend::make_ops("cuda", "").ok()) names.emplace_back("cuda");
  return names;
}

/// These in invariant numerics, and those that have others as "cpu/fast" in fast ones.
inline std::vector<std::string> golden_backends_in_both_numerics() {
  std::vector<std::string> names = golden_backends();
  for (const std::string& name : golden_backends()) {
    if (name != "reference") names.push_back(name + "/fast");
  }
  return names;
}

/// A decoder with one sequence in a cache of its own: on one rank, or one rank's part of it.
class OneSequence {
  static constexpr int64_t kBlockSize = 4;

 public:
  OneSequence(const std::string& model, const std::string& backend, int64_t positions,
              bool dummy = false, uint64_t dummy_seed = 0)
      : OneSequence(open_model(model, dummy, dummy_seed).value(), backend, positions, {},
                    comm::make_single(mesh::Axis::kControl)) {}

  /// `scheme` has one stage and one replica; `world` are its shards.
  OneSequence(ModelSource source, const std::string& backend, int64_t positions,
              const mesh::ParallelConfig& scheme, std::unique_ptr<comm::Communicator> world)
      : ops_(backend::make_ops(backend.substr(0, backend.find('/')), "").value()),
        source_(std::move(source)),
        groups_(mesh::Mesh::create(scheme, source_.spec.divisors()).value(), std::move(world)),
        stream_(ops_->make_stream(1, {})),
        arena_(ops_->allocate(Decoder::arena_bytes(source_.spec, *ops_, groups_.mesh(),
                                                   ExchangeKind::kAuto, 1, positions, positions))
                   .value()),
        host_arena_(
            ops_->allocate_host(Decoder::host_arena_bytes(source_.spec, *ops_, groups_.mesh(),
                                                          /*on_devices=*/false, ExchangeKind::kAuto,
                                                          positions, positions))
                .value()),
        packer_(
            StepPacker::create(*ops_, {positions, base::ceil_div(positions, kBlockSize)}).value()) {
    if (backend.ends_with("/fast")) stream_->numerics = base::Numerics::kFast;
    decoder_ = Decoder::create(source_, *ops_, groups_, *stream_, positions).value();
    const int64_t blocks = base::ceil_div(positions, kBlockSize);
    for (const LayerSpec& layer : source_.spec.layers) {
      const AttentionSpec& a = layer.attention;
      const int64_t kv_heads = kv_head_range(a, scheme.tp, groups_.coordinates().shard).size();
      backend::KvLayer cache{
          .blocks = blocks, .kv_heads = kv_heads, .block_size = kBlockSize, .head_dim = a.head_dim};
      for (void** half : {&cache.keys, &cache.values}) {
        buffers_.push_back(
            ops_->allocate(blocks * kv_heads * kBlockSize * a.head_dim * size_of(ops_->kv_dtype()))
                .value());
        *half = buffers_.back().data();
      }
      cache_.push_back(cache);
    }
    table_.resize(static_cast<size_t>(blocks));
    // Blocks in falling order: a cache that ignored the table would be noticed.
    std::iota(table_.rbegin(), table_.rend(), 0);
  }

  /// Appends tokens and gives their logits, [tokens][vocab].
  std::vector<float> run(const std::vector<int32_t>& tokens) {
    std::vector<int32_t> rows(tokens.size());
    std::iota(rows.begin(), rows.end(), 0);
    return run(tokens, rows);
  }

  /// Appends tokens and gives the logits of `rows` of them, [rows][vocab].
  std::vector<float> run(const std::vector<int32_t>& tokens, const std::vector<int32_t>& rows) {
    const auto m = std::ssize(tokens);
    const StepPacker::Fields in = packer_.begin(m, 1, std::ssize(table_), std::ssize(rows));
    std::iota(in.positions.i32(), in.positions.i32() + m, static_cast<int32_t>(length_));
    std::fill_n(in.sequences.i32(), m, 0);
    std::copy(table_.begin(), table_.end(), in.block_tables.i32());
    std::copy(tokens.begin(), tokens.end(), in.tokens.i32());
    std::copy(rows.begin(), rows.end(), in.sampled.i32());
    const StepInputs inputs = packer_.finish(*stream_);
    arena_.reset();
    host_arena_.reset();
    const StepMemory memory(arena_, ops_->in_host_memory() ? arena_ : host_arena_);
    const tensor::View residual = arena_.allocate(tensor::DType::kF32, {m, source_.spec.hidden});
    decoder_->embed(*stream_, memory, inputs.tokens, residual);
    decoder_->run_layers(*stream_, memory, inputs.rows, cache_, residual, nullptr);
    const tensor::View logits = decoder_->logits(*stream_, memory, residual, inputs.sampled);
    length_ += m;
    std::vector<float> out(static_cast<size_t>(logits.shape.elements()));
    ops_->copy_out(*stream_, logits, {out.data(), tensor::DType::kF32, logits.shape});
    stream_->synchronize();
    return out;
  }

  int64_t vocab() const { return source_.spec.vocab; }

 private:
  std::unique_ptr<backend::Ops> ops_;
  ModelSource source_;
  RankGroups groups_;
  std::unique_ptr<backend::Stream> stream_;
  tensor::Arena arena_;
  tensor::Arena host_arena_;
  StepPacker packer_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<tensor::Buffer> buffers_;
  std::vector<backend::KvLayer> cache_;
  std::vector<int32_t> table_;
  int64_t length_ = 0;
};

/// The prompts and answers of one golden folder (tests/golden/README.md).
class Golden {
 public:
  explicit Golden(const std::string& name)
      : store_(files::open_safetensors(kGolden + name + "/golden.safetensors").value()) {}

  int prompts() const {
    int n = 0;
    while (store_.find("prompt_" + std::to_string(n)) != nullptr) ++n;
    return n;
  }
  std::vector<int32_t> tokens(const std::string& kind, int i) const {
    const files::TensorEntry* entry = store_.find(kind + "_" + std::to_string(i));
    EXPECT_NE(entry, nullptr) << kind << i;
    const std::span<const std::byte> bytes = store_.files()[entry->file].bytes().subspan(
        static_cast<size_t>(entry->offset), static_cast<size_t>(entry->bytes));
    std::vector<int32_t> out(bytes.size() / sizeof(int32_t));
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
  std::vector<float> logits(int i) const { return floats("logits", i); }
  bool has_gaps() const { return store_.find("gap_0") != nullptr; }
  /// Of each token of the prompt: by how much the router's score of its last expert exceeds that of
  /// the next, in the layer where that is least.
  std::vector<float> prompt_gaps(int i) const {
    std::vector<float> out = floats("gap", i);
    out.resize(tokens("prompt", i).size());
    return out;
  }

 private:
  std::vector<float> floats(const std::string& kind, int i) const {
    const files::TensorEntry* entry = store_.find(kind + "_" + std::to_string(i));
    EXPECT_NE(entry, nullptr) << kind << i;
    std::vector<float> out(static_cast<size_t>(entry->rows() * entry->columns()));
    EXPECT_TRUE(store_.read_rows(*entry, 0, entry->rows(), 0, entry->columns(), out).ok());
    return out;
  }

  files::TensorStore store_;
};

/// Sum of squared differences over sum of squares.
inline double nmse(std::span<const float> actual, std::span<const float> expected) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(double{actual[i]} - double{expected[i]}, 2);
    norm += std::pow(double{expected[i]}, 2);
  }
  return error / norm;
}

inline int32_t argmax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace fourfold::model
