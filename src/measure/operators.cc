#include "measure/operators.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "base/machine.h"
#include "base/sizes.h"
#include "comm/local/local_world.h"
#include "measure/timed_ops.h"
#include "model/decoder.h"
#include "model/groups.h"
#include "model/source.h"
#include "model/step_inputs.h"
#include "model/weights.h"
#include "runtime/launch/interrupt.h"

namespace fourfold::measure {
namespace {

using model::ParamKind;
using tensor::DType;
using tensor::View;

constexpr double kPeaksSeconds = 0.2;
constexpr double kSampleSeconds = 0.1;  // passes of one sample take at least so long
constexpr int kMostDecodeRows = 64;     // of one step of the benchmark; more are a prompt
constexpr std::byte kCacheByte{0x3c};   // bf16 0.0115: a cache of zeros would be quicker
constexpr int64_t kBlockSize = 16;

const std::map<ParamKind, const char*> kLabels = {{ParamKind::kEmbedding, "head"},  // a tied one
                                                  {ParamKind::kHead, "head"},
                                                  {ParamKind::kQuery, "query"},
                                                  {ParamKind::kKey, "key"},
                                                  {ParamKind::kValue, "value"},
                                                  {ParamKind::kOutput, "output"},
                                                  {ParamKind::kGate, "gate"},
                                                  {ParamKind::kUp, "up"},
                                                  {ParamKind::kDown, "down"},
                                                  {ParamKind::kSharedGate, "shared gate"},
                                                  {ParamKind::kRouter, "router"},
                                                  {ParamKind::kExpertGate, "gate"},
                                                  {ParamKind::kExpertUp, "up"},
                                                  {ParamKind::kExpertDown, "down"}};

class Operators {
 public:
  Operators(const OperatorOptions& options, const Progress& progress)
      : options_(options), progress_(progress) {}

  base::Result<std::vector<Figure>> run() {
    FF_TRY(load());
    for (const int rows : options_.rows) {
      const model::StepInputs inputs = make_inputs(rows);
      pass(inputs);  // touches every weight and buffer once
      for (int repeat = 0; repeat < options_.repeats; ++repeat) {
        progress_(fmt::format("{} rows: repeat {}/{}", rows, repeat + 1, options_.repeats));
        FF_TRY(sample(inputs, rows));
        if (runtime::interrupted()) return base::fail("interrupted");
      }
    }
    return std::move(figures_);
  }

 private:
  base::Status load() {
    const runtime::ClusterConfig& c = options_.cluster;
    progress_("loading: one device");
    FF_ASSIGN(ops_, backend::make_ops(c.backend, c.isa));
    timed_ = std::make_unique<TimedOps>(*ops_);
    FF_ASSIGN(model::ModelSource source, runtime::open_source(c));
    FF_ASSIGN(const mesh::Mesh mesh, mesh::Mesh::create({}, source.spec.divisors()));
    keep_first_layers(source.spec, model::share_of(mesh, 0));
    groups_ = std::make_unique<model::RankGroups>(mesh, comm::make_single(mesh::Axis::kControl));
    const int most = *std::max_element(options_.rows.begin(), options_.rows.end());
    positions_ = std::max<int64_t>(options_.context, most) + 1;
    if (positions_ > source.spec.max_positions) {
      return base::fail("a context of {} does not fit the model's of {}: lower --context or --rows",
                        positions_, source.spec.max_positions);
    }
    const std::vector<int> cpus = base::usable_cpus();
    const bool pinned = std::ssize(cpus) >= c.cpus_per_device;
    stream_ = timed_->make_stream(
        c.cpus_per_device, pinned ? std::span(cpus).first(static_cast<size_t>(c.cpus_per_device))
                                  : std::span<const int>());
    stream_->numerics = options_.numerics;
    FF_ASSIGN(decoder_, model::Decoder::create(source, *timed_, *groups_, *stream_, positions_));
    label_weights();
    const int64_t arena_bytes = model::Decoder::arena_bytes(
        decoder_->spec(), *timed_, mesh, model::ExchangeKind::kAuto, c.cpus_per_device, most, most);
    FF_ASSIGN(tensor::Buffer arena, timed_->allocate(arena_bytes));
    arena_ = std::make_unique<tensor::Arena>(std::move(arena));
    FF_ASSIGN(tensor::Buffer host_arena,
              timed_->allocate_host(model::Decoder::host_arena_bytes(
                  decoder_->spec(), *timed_, mesh, /*on_devices=*/false, model::ExchangeKind::kAuto,
                  most, std::min(most, kMostDecodeRows))));
    host_arena_ = std::make_unique<tensor::Arena>(std::move(host_arena));
    return make_cache();
  }

  /// So many layers that their weights are far larger than any cache and yet fit a small machine.
  void keep_first_layers(model::ModelSpec& spec, const model::RankShare& all) const {
    constexpr int64_t kMostWeightBytes = int64_t{4} << 30;
    while (spec.layers.size() > 1 && model::weight_bytes(spec, *ops_, all) > kMostWeightBytes) {
      spec.layers.pop_back();
      std::erase_if(spec.params, [&](const model::Param& param) {
        return param.layer >= static_cast<int32_t>(spec.layers.size());
      });
    }
  }

  void label_weights() {
    for (const model::Param& param : decoder_->spec().params) {
      const auto label = kLabels.find(param.kind);
      if (label == kLabels.end()) continue;
      const model::Weights& weights = decoder_->weights();
      const backend::Weight* weight = weights.find(param.kind, param.layer);
      if (weight != nullptr) timed_->label(*weight, label->second);
      // A grouped matmul has the name of its first matrix.
      const auto experts = weights.experts(param.kind, param.layer);
      if (!experts.empty()) timed_->label(*experts.front(), label->second);
    }
  }

  base::Status fill_cache(const tensor::Buffer& buffer) {
    FF_ASSIGN(const tensor::Buffer host, timed_->allocate_host(buffer.bytes()));
    std::memset(host.data(), static_cast<int>(kCacheByte), static_cast<size_t>(host.bytes()));
    const tensor::Shape shape{buffer.bytes() / size_of(DType::kBF16)};
    timed_->copy_in(*stream_, {host.data(), DType::kBF16, shape},
                    {buffer.data(), DType::kBF16, shape});
    stream_->synchronize();
    return {};
  }

  /// Blocks for as many sequences as a decode step has, or for the longest prompt.
  base::Status make_cache() {
    int64_t sequences = 1;
    for (const int rows : options_.rows) {
      if (rows <= kMostDecodeRows) sequences = std::max<int64_t>(sequences, rows);
    }
    blocks_of_sequence_ = base::ceil_div(positions_, kBlockSize);
    const int64_t most = *std::max_element(options_.rows.begin(), options_.rows.end());
    FF_ASSIGN(packer_, model::StepPacker::create(
                           *timed_, {.rows = most, .entries = sequences * blocks_of_sequence_}));
    for (const model::LayerSpec& layer : decoder_->spec().layers) {
      backend::KvLayer cache{.blocks = sequences * blocks_of_sequence_,
                             .kv_heads = layer.attention.kv_heads,
                             .block_size = kBlockSize,
                             .head_dim = layer.attention.head_dim};
      const int64_t bytes = cache.blocks * cache.kv_heads * cache.block_size * cache.head_dim *
                            tensor::size_of(timed_->kv_dtype());
      for (void** part : {&cache.keys, &cache.values}) {
        FF_ASSIGN(tensor::Buffer buffer, timed_->allocate(bytes));
        FF_TRY(fill_cache(buffer));
        *part = buffer.data();
        buffers_.push_back(std::move(buffer));
      }
      cache_.push_back(cache);
    }
    return {};
  }

  /// A decode step of `m` sequences, or one prompt of `m` tokens.
  model::StepInputs make_inputs(int64_t m) {
    const bool decode = m <= kMostDecodeRows;
    const int64_t sequences = decode ? m : 1;
    const model::StepPacker::Fields in =
        packer_->begin(m, sequences, blocks_of_sequence_, sequences);
    for (int64_t row = 0; row < m; ++row) {
      in.tokens.i32()[row] = static_cast<int32_t>((row * 7919 + 1) % decoder_->spec().vocab);
      in.positions.i32()[row] = static_cast<int32_t>(decode ? options_.context : row);
      in.sequences.i32()[row] = static_cast<int32_t>(decode ? row : 0);
    }
    for (int64_t i = 0; i < sequences * blocks_of_sequence_; ++i) {
      in.block_tables.i32()[i] = static_cast<int32_t>(i);
    }
    for (int64_t i = 0; i < sequences; ++i) {
      in.sampled.i32()[i] = static_cast<int32_t>(decode ? i : m - 1);
    }
    return packer_->finish(*stream_);
  }

  void pass(const model::StepInputs& inputs) {
    arena_->reset();
    host_arena_->reset();
    const model::StepMemory memory(*arena_, ops_->in_host_memory() ? *arena_ : *host_arena_);
    const View residual =
        arena_->allocate(DType::kF32, {inputs.tokens.shape[0], decoder_->spec().hidden});
    decoder_->embed(*stream_, memory, inputs.tokens, residual);
    decoder_->run_layers(*stream_, memory, inputs.rows, cache_, residual, nullptr);
    decoder_->logits(*stream_, memory, residual, inputs.sampled);
  }

  base::Status sample(const model::StepInputs& inputs, int rows) {
    FF_ASSIGN(const backend::Peaks before,
              ops_->measure_peaks(*stream_, kPeaksSeconds, /*sharers=*/1));
    timed_->reset();
    const base::SteadyClock clock;
    const int64_t begin_ns = clock.now_ns();
    do {
      pass(inputs);
    } while (base::seconds_between(begin_ns, clock.now_ns()) < kSampleSeconds);
    FF_ASSIGN(const backend::Peaks after,
              ops_->measure_peaks(*stream_, kPeaksSeconds, /*sharers=*/1));
    const double flop_s = (before.matmul_flop_s + after.matmul_flop_s) / 2;
    const double bytes_s = (before.read_bytes_s + after.read_bytes_s) / 2;
    for (const auto& [name, time] : timed_->times()) {
      const auto calls = static_cast<double>(time.calls);
      const double compute_s = time.flops / flop_s;
      const double read_s = time.bytes / bytes_s;
      add_sample(figures_,
                 {.name = fmt::format("{} m{}", name, rows),
                  .unit = "us",
                  .better = Better::kLower,
                  .limit = compute_s > read_s ? "peak FLOP/s" : "read bandwidth"},
                 {.value = time.seconds * 1e6 / calls,
                  .ceiling = std::max(compute_s, read_s) * 1e6 / calls});
    }
    return {};
  }

  const OperatorOptions& options_;
  const Progress& progress_;
  std::unique_ptr<backend::Ops> ops_;
  std::unique_ptr<TimedOps> timed_;
  std::unique_ptr<backend::Stream> stream_;
  std::unique_ptr<model::RankGroups> groups_;
  std::unique_ptr<model::Decoder> decoder_;
  std::unique_ptr<tensor::Arena> arena_;
  std::unique_ptr<tensor::Arena> host_arena_;
  std::optional<model::StepPacker> packer_;
  std::vector<backend::KvLayer> cache_;
  std::vector<tensor::Buffer> buffers_;
  int64_t positions_ = 0;
  int64_t blocks_of_sequence_ = 0;
  std::vector<Figure> figures_;
};

}  // namespace

base::Result<std::vector<Figure>> measure_operators(const OperatorOptions& options,
                                                    const Progress& progress) {
  return Operators(options, progress).run();
}

}  // namespace fourfold::measure
