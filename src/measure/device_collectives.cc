#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "backend/ops.h"
#include "base/clock.h"
#include "measure/collectives.h"

namespace fourfold::measure {
namespace {

/// Calls in one graph: so many that launching it does not matter.
constexpr int kCallsInGraph = 50;

class DeviceCollectives {
 public:
  DeviceCollectives(comm::Communicator& group, const CollectiveOptions& options, std::string how,
                    const backend::Ops& ops, comm::DeviceGroup& devices)
      : group_(group),
        options_(options),
        how_(std::move(how)),
        ops_(ops),
        devices_(devices),
        stream_(ops.make_stream(/*threads=*/1, {})) {}

  base::Result<std::vector<Figure>> run() {
    for (const int64_t bytes : options_.sizes) FF_TRY(measure_size(bytes));
    return std::move(figures_);
  }

 private:
  base::Status measure_size(int64_t bytes) {
    FF_ASSIGN(const tensor::Buffer part, ops_.allocate(bytes));
    FF_ASSIGN(const tensor::Buffer whole, ops_.allocate(bytes * group_.size()));
    auto* const floats = static_cast<float*>(part.data());
    const int64_t count = bytes / static_cast<int64_t>(sizeof(float));
    const std::string size = size_name(bytes);
    measure("all_reduce_us " + size,
            [&] { devices_.all_reduce_sum(stream_->handle(), floats, count, options_.wire); });
    measure("all_gather_us " + size,
            [&] { devices_.all_gather(stream_->handle(), part.data(), whole.data(), bytes); });
    measure(
        "send_recv_us " + size,
        [&] {
          if (group_.rank() > 1) return;
          const int peer = 1 - group_.rank();
          if (group_.rank() == 0) {
            devices_.send(stream_->handle(), floats, count, options_.wire, peer);
          }
          devices_.recv(stream_->handle(), floats, count, options_.wire, peer);
          if (group_.rank() == 1) {
            devices_.send(stream_->handle(), floats, count, options_.wire, peer);
          }
        },
        /*messages=*/2);
    return {};
  }

  void measure(const std::string& name, const std::function<void()>& call, int messages = 1) {
    Figure figure{.name = name + " " + how_, .unit = "us", .better = Better::kLower};
    const int64_t key = std::ssize(figures_);
    const auto launch = [&] {
      stream_->repeat({&key, 1}, {}, [&] {
        for (int i = 0; i < kCallsInGraph; ++i) call();
      });
    };
    for (int i = 0; i < 3; ++i) launch();  // as such, as a graph, and once more
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      stream_->synchronize();
      group_.barrier();
      const int64_t begin_ns = clock_.now_ns();
      launch();
      launch();
      stream_->synchronize();
      const auto us = static_cast<double>(clock_.now_ns() - begin_ns) * 1e-3;
      figure.samples.push_back({.value = us / (2 * kCallsInGraph * messages)});
    }
    figures_.push_back(std::move(figure));
  }

  comm::Communicator& group_;
  const CollectiveOptions& options_;
  std::string how_;
  const backend::Ops& ops_;
  comm::DeviceGroup& devices_;
  std::unique_ptr<backend::Stream> stream_;
  base::SteadyClock clock_;
  std::vector<Figure> figures_;
};

}  // namespace

base::Result<std::vector<Figure>> measure_device_collectives(comm::Communicator& group,
                                                             const std::string& how,
                                                             const CollectiveOptions& options,
                                                             comm::DevicePaths paths) {
  FF_ASSIGN(const std::unique_ptr<backend::Ops> ops, backend::make_ops("cuda", "", group.rank()));
  FF_ASSIGN(const std::unique_ptr<comm::DeviceGroup> devices, comm::connect_devices(group, paths));
  return DeviceCollectives(group, options, how, *ops, *devices).run();
}

}  // namespace fourfold::measure
