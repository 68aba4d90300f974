#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/log.h"
#include "model/decoder.h"
#include "model/groups.h"
#include "model/step_inputs.h"
#include "runtime/layer_times.h"
#include "runtime/sampler.h"
#include "runtime/step_sampling.h"
#include "runtime/token_ring.h"
#include "runtime/worker.h"

namespace fourfold::runtime {

/// What a rank remembers of a running sequence between steps.
struct Slot {
  Sampler sampler;
  std::vector<int32_t> blocks;
};

/// The worker of one stage of a pipeline: what there is of Worker. Loading is in worker.cc, steps
/// are in stage_steps.cc.
class StageWorker final : public Worker {
 public:
  StageWorker(const RankConfig& config, std::shared_ptr<const backend::Ops> ops,
              std::unique_ptr<model::RankGroups> groups, std::unique_ptr<backend::Stream> stream)
      : config_(config),
        ops_(std::move(ops)),
        groups_(std::move(groups)),
        stream_(std::move(stream)),
        arena_(tensor::Buffer()),
        host_arena_(tensor::Buffer()),
        slots_(static_cast<size_t>(config.limits.slots)) {}

  /// Steps may be in progress on a device where the group has failed.
  ~StageWorker() override {
    try {
      stream_->synchronize();
    } catch (const std::exception& error) {
      spdlog::debug("a rank ends while its device fails: {}", error.what());
    }
  }
  StageWorker(const StageWorker&) = delete;
  StageWorker& operator=(const StageWorker&) = delete;

  base::Status load(const model::ModelSource& source);

  void begin(const std::vector<engine::StepBatch>& batches) override;
  StageReport finish() override;
  int depth() const override { return runs_ahead_ ? 2 : 1; }
  bool reports() const override { return groups_->coordinates().shard == 0; }
  RankMemory memory() const override { return memory_; }
  base::Result<RankStats> stats(double peaks_s) override;

 private:
  base::Status allocate_cache();
  void prepare_steps();
  void prepare_prompt(int64_t rows);
  void prepare_decodes(int64_t rows, int64_t width);
  void finish_preparing();
  void apply_tables(const engine::StepBatch& batch);
  model::StepInputs pack_inputs(const engine::StepBatch& batch,
                                const std::vector<SampledRow>& sampled, int64_t rows);
  void fill_spare_rows(const model::StepPacker::Fields& in, int64_t begin) const;
  void name_tokens(const engine::StepBatch& batch, tensor::View tokens);
  void receive_tokens_until(engine::StepId step);
  void keep_tokens(engine::StepId step, std::span<const int32_t> tokens);
  struct Begun;
  void sample_rows(const engine::StepBatch& batch, const std::vector<SampledRow>& sampled,
                   tensor::View logits, tensor::View draws, Begun& begun);
  model::Decoder::Tap make_tap(const engine::StepBatch& batch, engine::StepOutput& output);
  void run_rows(const engine::StepBatch& batch, const std::vector<int64_t>& replica_rows,
                Begun& begun);
  bool waits(const engine::StepBatch& batch, const std::vector<SampledRow>& sampled) const;
  void settle(Begun& begun);
  bool has_repeated_shape(const engine::StepBatch& batch,
                          const std::vector<SampledRow>& sampled) const;
  bool is_watched() const;
  void unwatched(const std::function<void()>& enqueue);
  tensor::View run_stage(const model::StepInputs& inputs, const model::Decoder::Tap& tap,
                         const std::vector<int64_t>& replica_rows);
  std::vector<int64_t> key_of(const model::StepInputs& inputs) const;
  void embed(const model::StepInputs& inputs, tensor::View residual,
             const model::Decoder::Tap& tap);
  void run_layers(const model::StepInputs& inputs, tensor::View residual,
                  const model::Decoder::Tap& tap, const std::vector<int64_t>& replica_rows);
  void show_step(engine::StepId step, int64_t rows);
  std::vector<SampledRow> sampled_rows(const engine::StepBatch& batch);
  /// Where the step's intermediates are.
  model::StepMemory step_memory() {
    return {arena_, ops_->in_host_memory() ? arena_ : host_arena_};
  }

  RankConfig config_;
  std::shared_ptr<const backend::Ops> ops_;
  std::unique_ptr<model::RankGroups> groups_;
  std::unique_ptr<backend::Stream> stream_;
  std::unique_ptr<model::Decoder> decoder_;
  tensor::Arena arena_;
  tensor::Arena host_arena_;  ///< empty where the backend's memory is the host's
  std::optional<model::StepPacker> packer_;
  std::vector<tensor::Buffer> cache_buffers_;
  std::vector<backend::KvLayer> cache_;
  std::vector<Slot> slots_;
  RankMemory memory_;
  LayerTimes layer_times_;
  int64_t steps_ = 0;
  int64_t fast_steps_ = 0;
  int64_t zero_row_steps_ = 0;
  int64_t rows_ = 0;

  TokenRing ring_;
  /// The first stage of several gets the tokens from the last one, and receives them only when it
  /// has to.
  struct Expected {
    engine::StepId step;
    size_t count = 0;
  };
  std::deque<Expected> expected_;

  struct Begun {
    StageReport report;
    int64_t rows = 0;
    double waited_s = 0;  ///< of the device's work on it, in begin()
    /// Where a device works on it: when it is done, and where its tokens come to, if it samples.
    std::optional<int64_t> mark;
    tensor::View coming;
    std::vector<int32_t> tokens;  ///< that the host has
    bool settled = false;
  };
  std::deque<Begun> begun_;
  /// True where steps are enqueued on a device and nothing in them waits for the host.
  bool runs_ahead_ = false;
  /// Most rows of a step that samples all of them.
  int64_t most_sampled() const {
    return std::min(config_.limits.slots, config_.limits.max_step_tokens);
  }
  /// Logits of the steps that are repeated, by key.
  std::map<std::vector<int64_t>, tensor::View> repeated_logits_;
};

}  // namespace fourfold::runtime
