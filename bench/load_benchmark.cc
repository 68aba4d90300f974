// Loading a model's weights beside reading their bytes once: the same files, warm in the page
// cache, by the same threads, into fresh memory. The bound for the ratio is 1.3.
//
//     FOURFOLD_LOAD_MODEL=llama-1b.gguf build/release/bench/load_benchmark

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "backend/host_ops.h"
#include "base/check.h"
#include "model/source.h"
#include "model/weights.h"

namespace fourfold {
namespace {

model::ModelSource open_source() {
  const char* name = std::getenv("FOURFOLD_LOAD_MODEL");
  auto source = model::open_model(name == nullptr ? "tiny" : name, /*dummy=*/false, /*seed=*/0);
  CHECK(source.ok(), "{}", source.error().message);
  return std::move(source).value();
}

std::unique_ptr<backend::Ops> cpu_ops() {
  auto ops = backend::make_ops("cpu", "");
  CHECK(ops.ok(), "{}", ops.error().message);
  return std::move(ops).value();
}

void load(benchmark::State& state) {
  const model::ModelSource source = open_source();
  const std::unique_ptr<backend::Ops> ops = cpu_ops();
  const auto stream = ops->make_stream(static_cast<int>(state.range(0)), {});
  const auto mesh = mesh::Mesh::create({}, source.spec.divisors());
  CHECK(mesh.ok(), "{}", mesh.error().message);
  const model::RankShare share = model::share_of(*mesh, 0);
  int64_t bytes = 0;
  for (auto _ : state) {
    const auto weights = model::Weights::load(source, *ops, *stream, share);
    CHECK(weights.ok(), "{}", weights.error().message);
    bytes += weights.value().file_bytes_read();
  }
  state.SetBytesProcessed(bytes);
}

/// Reads the tensors of every file, cut into pieces over the threads.
void read(benchmark::State& state) {
  constexpr int64_t kPiece = int64_t{4} << 20;
  const model::ModelSource source = open_source();
  const std::unique_ptr<backend::Ops> ops = cpu_ops();
  const auto stream = ops->make_stream(static_cast<int>(state.range(0)), {});
  int64_t bytes = 0;
  for (auto _ : state) {
    for (const files::MappedFile& file : source.tensors->files()) {
      const int64_t size = file.size();
      auto buffer = ops->allocate(size);
      CHECK(buffer.ok(), "{}", buffer.error().message);
      auto* to = static_cast<std::byte*>(buffer.value().data());
      const int fd = ::open(file.path().c_str(), O_RDONLY);
      CHECK(fd >= 0, "opening {}", file.path());
      backend::pool_of(*stream).parallel_for(
          (size + kPiece - 1) / kPiece, 1, [&](int64_t begin, int64_t end, int) {
            const int64_t last = std::min(end * kPiece, size);
            for (int64_t at = begin * kPiece; at < last;) {
              const ssize_t n =
                  pread(fd, to + at, static_cast<size_t>(std::min(kPiece, last - at)), at);
              CHECK(n > 0, "reading at {}", at);
              at += n;
            }
          });
      close(fd);
      bytes += size;
    }
  }
  state.SetBytesProcessed(bytes);
}

BENCHMARK(load)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(read)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace fourfold
