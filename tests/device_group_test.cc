// The collectives between GPUs against their definition, with a process for each GPU. Needs two
// GPUs; all tests are skipped where there are fewer.

#include "comm/device_group.h"

#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/ops.h"
#include "base/philox.h"
#include "comm/mpi/mpi_runtime.h"
#include "comm/tree_sum.h"
#include "comm/values_for_test.h"
#include "runtime/launch/child_process.h"
#include "runtime/launch/rank_command.h"
#include "runtime/launch/run_dir.h"

namespace fourfold {
namespace {

using comm::values_of;
using comm::Wire;
using tensor::DType;
using tensor::View;

constexpr std::string_view kPlayRank = "--play-rank=";

float rounded(float x) {
  std::byte bytes[2];
  comm::to_wire(Wire::kBF16, &x, bytes, 1);
  comm::from_wire(Wire::kBF16, bytes, &x, 1);
  return x;
}

/// What a rank does; every check prints what is wrong and counts it.
class Rank {
 public:
  Rank(comm::Communicator& group, const backend::Ops& ops, comm::DeviceGroup& devices, bool own)
      : group_(group), ops_(ops), devices_(devices), own_(own), stream_(ops.make_stream(1, {})) {}

  int run() {
    for (const int64_t count : {1, 8, 100, 4096, 100'000, 3 << 20}) {
      for (const Wire wire : {Wire::kF32, Wire::kBF16}) {
        check_all_reduce(count, wire);
        check_send(count, wire);
      }
    }
    for (const int64_t bytes : {1, 16, 1000, 1 << 20, 12 << 20}) check_all_gather(bytes);
    for (const int64_t rows : {1, 3, 64, 300, 2100}) {
      for (const int64_t columns : {64, 4096, 16384}) {
        if (rows * columns < (10 << 20)) check_add_norm(rows, columns);
      }
    }
    check_many_in_a_row();
    return failures_;
  }

 private:
  struct Floats {
    tensor::Buffer memory;
    View view;
    float* data() const { return static_cast<float*>(view.data); }
  };

  Floats on_device(const std::vector<float>& values, DType dtype = DType::kF32) {
    Floats out;
    out.memory = ops_.allocate(std::ssize(values) * 4).value();
    out.view = {out.memory.data(), dtype, {std::ssize(values)}};
    if (dtype == DType::kF32) {
      ops_.copy_in(*stream_, {const_cast<float*>(values.data()), dtype, out.view.shape}, out.view);
    }
    stream_->synchronize();
    return out;
  }

  std::vector<float> on_host(const Floats& floats) {
    std::vector<float> values(static_cast<size_t>(floats.view.shape.elements()));
    ops_.copy_out(*stream_, floats.view, {values.data(), DType::kF32, floats.view.shape});
    stream_->synchronize();
    return values;
  }

  /// The sum of all ranks' values, of parts as they travel.
  std::vector<float> sum_of(uint64_t seed, int64_t n, Wire wire) const {
    std::vector<std::vector<float>> ranks;
    std::vector<const float*> parts;
    for (int r = 0; r < group_.size(); ++r) {
      ranks.push_back(values_of(seed, r, n));
      if (wire == Wire::kBF16) {
        for (float& x : ranks.back()) x = rounded(x);
      }
    }
    for (const auto& rank : ranks) parts.push_back(rank.data());
    std::vector<float> sum(static_cast<size_t>(n));
    comm::tree_sum(parts, sum.data(), n);
    return sum;
  }

  void expect(bool holds, const std::string& what) {
    if (holds) return;
    if (++failures_ <= 5) std::fprintf(stderr, "rank %d: %s\n", group_.rank(), what.c_str());
  }

  /// All ranks hold the same bits.
  void expect_same_everywhere(const std::vector<float>& values, const std::string& what) {
    std::vector<float> all(values.size() * static_cast<size_t>(group_.size()));
    group_.all_gather(std::as_bytes(std::span(values)), std::as_writable_bytes(std::span(all)));
    for (size_t i = 0; i < all.size(); ++i) {
      if (std::bit_cast<uint32_t>(all[i]) != std::bit_cast<uint32_t>(values[i % values.size()])) {
        return expect(false, what + ": ranks differ");
      }
    }
  }

  void check_all_reduce(int64_t count, Wire wire) {
    const std::string what =
        "sum of " + std::to_string(count) + (wire == Wire::kF32 ? " in f32" : " in bf16");
    const Floats data = on_device(values_of(1, group_.rank(), count));
    devices_.all_reduce_sum(stream_->handle(), data.data(), count, wire);
    const std::vector<float> got = on_host(data);
    const std::vector<float> want = sum_of(1, count, wire);
    for (size_t i = 0; i < got.size(); ++i) {
      // NCCL rounds sums in bf16 where they travel, too.
      const bool exact = wire == Wire::kF32;
      const float error = std::abs(got[i] - want[i]);
      if (exact ? got[i] != want[i] : error > 0.02F * std::abs(want[i]) + 0.02F) {
        expect(false, what + ": element " + std::to_string(i) + " is " + std::to_string(got[i]) +
                          ", expected " + std::to_string(want[i]));
        break;
      }
    }
    expect_same_everywhere(got, what);
  }

  void check_all_gather(int64_t bytes) {
    const int64_t floats = bytes / 4 + 1;
    const Floats in = on_device(values_of(2, group_.rank(), floats));
    const Floats out =
        on_device(std::vector<float>(static_cast<size_t>(floats * group_.size()), 0.0F));
    devices_.all_gather(stream_->handle(), in.data(), out.data(), bytes);
    const std::vector<float> got = on_host(out);
    for (int r = 0; r < group_.size(); ++r) {
      const std::vector<float> want = values_of(2, r, floats);
      expect(std::memcmp(reinterpret_cast<const char*>(got.data()) + r * bytes, want.data(),
                         static_cast<size_t>(bytes)) == 0,
             "gathering " + std::to_string(bytes) + " bytes: those of rank " + std::to_string(r));
    }
  }

  /// Around the ring: rank 0 begins.
  void check_send(int64_t count, Wire wire) {
    const int next = (group_.rank() + 1) % group_.size();
    const int last = (group_.rank() + group_.size() - 1) % group_.size();
    const Floats data =
        on_device(group_.rank() == 0 ? values_of(3, 0, count)
                                     : std::vector<float>(static_cast<size_t>(count), 0.0F));
    if (group_.rank() > 0) devices_.recv(stream_->handle(), data.data(), count, wire, last);
    devices_.send(stream_->handle(), data.data(), count, wire, next);
    if (group_.rank() == 0) devices_.recv(stream_->handle(), data.data(), count, wire, last);
    std::vector<float> want = values_of(3, 0, count);
    if (wire == Wire::kBF16) {
      for (float& x : want) x = rounded(x);
    }
    expect(on_host(data) == want, "a message of " + std::to_string(count) + " floats");
  }

  void check_add_norm(int64_t rows, int64_t columns) {
    const std::string what =
        "sum and norm of [" + std::to_string(rows) + ", " + std::to_string(columns) + "]";
    const int64_t count = rows * columns;
    const Floats data = on_device(values_of(4, group_.rank(), count));
    const Floats residual = on_device(values_of(5, 0, count));
    const std::vector<float> gain_values = values_of(6, 0, columns);
    const Floats gain = on_device(gain_values);
    const Floats out = on_device(std::vector<float>(static_cast<size_t>(count)), DType::kBF16);
    const bool done =
        devices_.all_reduce_add_norm(stream_->handle(), data.data(), residual.data(), gain.data(),
                                     1e-5F, rows, columns, static_cast<uint16_t*>(out.view.data));
    if (!own_) return expect(!done, what + " without memory of each other");
    if (!done) return;
    std::vector<float> want = values_of(5, 0, count);
    const std::vector<float> sum = sum_of(4, count, Wire::kBF16);
    for (size_t i = 0; i < want.size(); ++i) want[i] += sum[i];
    const std::vector<float> got = on_host(residual);
    expect(got == want, what + ": the residual");
    std::vector<uint16_t> normed(static_cast<size_t>(count));
    ops_.copy_out(*stream_, {out.view.data, DType::kBF16, {count}},
                  {normed.data(), DType::kBF16, {count}});
    stream_->synchronize();
    for (int64_t row = 0; row < rows; ++row) {
      double squares = 0;
      for (int64_t c = 0; c < columns; ++c) {
        const double x = want[static_cast<size_t>(row * columns + c)];
        squares += x * x;
      }
      const double scale = 1 / std::sqrt(squares / static_cast<double>(columns) + 1e-5);
      for (int64_t c = 0; c < columns; ++c) {
        const auto i = static_cast<size_t>(row * columns + c);
        const double expected = want[i] * scale * gain_values[static_cast<size_t>(c)];
        const double value = std::bit_cast<float>(static_cast<uint32_t>(normed[i]) << 16);
        if (std::abs(value - expected) > 0.005 * std::abs(expected) + 1e-6) {
          return expect(false, what + ": row " + std::to_string(row));
        }
      }
    }
  }

  /// Nothing waits between calls, sizes change from one to the next, and it all runs again as a
  /// graph: buffers must not be written before they were read.
  void check_many_in_a_row() {
    constexpr int kCalls = 100;
    std::vector<Floats> all;
    const auto count_of = [](int call) {
      return int64_t{8} << (base::philox(7, {static_cast<uint32_t>(call), 0})[0] % 18);
    };
    const auto fill = [&](bool first) {
      for (int call = 0; call < kCalls; ++call) {
        const std::vector<float> values =
            values_of(100 + static_cast<uint64_t>(call), group_.rank(), count_of(call));
        if (first) {
          all.push_back(on_device(values));
        } else {
          const View& to = all[static_cast<size_t>(call)].view;
          ops_.copy_in(*stream_, {const_cast<float*>(values.data()), DType::kF32, to.shape}, to);
          stream_->synchronize();
        }
      }
    };
    const int64_t key = 1;
    for (int round = 0; round < 4; ++round) {
      fill(round == 0);
      stream_->repeat({&key, 1}, {}, [&] {
        for (int call = 0; call < kCalls; ++call) {
          devices_.all_reduce_sum(stream_->handle(), all[static_cast<size_t>(call)].data(),
                                  count_of(call), Wire::kF32);
        }
      });
      for (int call = 0; call < kCalls; ++call) {
        expect(on_host(all[static_cast<size_t>(call)]) ==
                   sum_of(100 + static_cast<uint64_t>(call), count_of(call), Wire::kF32),
               "call " + std::to_string(call) + " of many, round " + std::to_string(round));
      }
    }
    const comm::CommStats stats = devices_.stats();
    expect(stats.calls > 4 * kCalls && stats.seconds > 0 && stats.wait_seconds <= stats.seconds,
           "what the calls cost");
  }

  comm::Communicator& group_;
  const backend::Ops& ops_;
  comm::DeviceGroup& devices_;
  bool own_;
  std::unique_ptr<backend::Stream> stream_;
  int failures_ = 0;
};

int play_rank(bool own) {
  const auto mpi = comm::MpiRuntime::start({.waiting = comm::Waiting::kSleep}).value();
  const std::unique_ptr<comm::Communicator> group = mpi->world();
  const auto ops = backend::make_ops("cuda", "", group->rank()).value();
  const auto devices =
      comm::connect_devices(*group, own ? comm::DevicePaths::kAll : comm::DevicePaths::kNccl);
  if (!devices.ok()) {
    std::fprintf(stderr, "%s\n", devices.error().message.c_str());
    return 1;
  }
  return Rank(*group, *ops, **devices, own).run() == 0 ? 0 : 1;
}

int gpus() {
  const auto ops = backend::make_ops("cuda", "");
  return ops.ok() ? (*ops)->gpus() : 0;
}

class DeviceGroupTest : public ::testing::TestWithParam<std::string> {};

TEST_P(DeviceGroupTest, ComputesWhatIsDefined) {
  const int most = std::bit_floor(static_cast<unsigned>(gpus()));
  if (most < 2) GTEST_SKIP() << "needs two GPUs";
  for (int ranks = 2; ranks <= most; ranks *= 2) {
    const runtime::RunDir run_dir = runtime::RunDir::create().value();
    const runtime::ChildProcess::Options command{
        .args = {"/usr/bin/env", "mpirun", "-n", std::to_string(ranks), "--oversubscribe",
                 "--bind-to", "none", std::filesystem::read_symlink("/proc/self/exe").string(),
                 std::string(kPlayRank) + GetParam()},
        .environment = {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                        "NCCL_NVLS_ENABLE=0"},
        .output = run_dir.path() / "output"};
    auto child = runtime::ChildProcess::spawn(command);
    ASSERT_TRUE(child.ok()) << child.error().message;
    const auto status = child->wait_exit(std::chrono::seconds(120));
    EXPECT_EQ(status, 0) << runtime::last_words(command.output, runtime::Speaker::kMpirunToo);
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, DeviceGroupTest, ::testing::Values("all", "nccl"));

}  // namespace
}  // namespace fourfold

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]).starts_with(fourfold::kPlayRank)) {
    return fourfold::play_rank(std::string_view(argv[1]).ends_with("all"));
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
