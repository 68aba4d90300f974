// make_seeds FOLDER: writes the seeds that are bytes and not text, one folder a target.
#include <filesystem>
#include <fstream>

#include "base/check.h"
#include "runtime/control/frame.h"
#include "runtime/control/rank_config_json.h"
#include "tests/fuzz/small_files.h"

namespace fourfold::fuzz {
namespace {

namespace fs = std::filesystem;

void write(const fs::path& file, std::string_view content) {
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << content;
  CHECK(fs::file_size(file) == content.size(), "{} was not written", file.string());
}

// A step with every kind of entry.
engine::StepBatch full_batch() {
  engine::StepBatch batch;
  batch.step = engine::StepId(7);
  batch.starts = {{.slot = engine::SlotId(0), .sampling = {.temperature = 0.5F, .logprobs = 2}}};
  batch.chunks = {{.slot = engine::SlotId(0), .position = 0, .num_tokens = 2, .num_blocks = 1},
                  {.slot = engine::SlotId(1), .position = 9, .num_tokens = 1, .sample = true}};
  batch.tokens = {5, 6, -1};
  batch.refs = {{.step = engine::StepId(6), .row = 1}};
  batch.blocks = {engine::BlockId(3)};
  batch.trace = true;
  return batch;
}

runtime::StageReport full_report() {
  runtime::StageReport report;
  report.step = engine::StepId(7);
  report.output.sampled = {{{.token = 4, .logprob = -1, .top = {{4, -1}, {5, -2}}}}, {}};
  report.output.trace = {{.layer = -1, .row = 0, .hash = 9}};
  return report;
}

runtime::RankStats full_stats() {
  runtime::RankStats stats;
  stats.comm = {{mesh::Axis::kTensor, {}}, {mesh::Axis::kControl, {}}};
  return stats;
}

void write_frames(const fs::path& folder) {
  const runtime::Message messages[] = {
      runtime::Hello{.rank = 1, .secret = "secret"},
      runtime::Config{.config = {.model = "tiny", .cpus = {0, 1}}},
      runtime::Ready{},
      runtime::Step{.batches = {full_batch(), {.step = engine::StepId(7)}}},
      runtime::Report{.report = full_report()},
      runtime::StatsRequest{},
      runtime::Stats{.stats = full_stats()},
      runtime::Ping{},
      runtime::Pong{},
      runtime::Shutdown{},
      runtime::Failure{.text = "out of memory", .own_fault = true},
      runtime::Crash{.signal = 11},
  };
  for (const runtime::Message& message : messages) {
    const std::vector<std::byte> frame = runtime::encode_frame(message);
    write(folder / fmt::format("type_{}", message.index()),
          {reinterpret_cast<const char*>(frame.data()), frame.size()});
  }
}

}  // namespace
}  // namespace fourfold::fuzz

int main(int argc, char** argv) {
  using namespace fourfold;
  CHECK(argc == 2, "expected one argument: the folder to write");
  const std::filesystem::path folder = argv[1];
  fuzz::write(folder / "gguf/small", fuzz::small_gguf());
  fuzz::write(folder / "gguf_model/small", fuzz::small_gguf());
  fuzz::write(folder / "safetensors/small", fuzz::small_safetensors());
  fuzz::write(folder / "rank_config/tiny", runtime::to_json({.model = "tiny", .cpus = {0, 1}}));
  fuzz::write_frames(folder / "frame");
  return 0;
}
