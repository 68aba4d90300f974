#include "backend/cuda/nvml.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/clock.h"
#include "base/log.h"
#include "base/shared_library.h"

namespace fourfold::backend::cuda {
namespace {

// The part of NVML's interface that is used here, as NVIDIA documents it ("NVML API Reference",
// sections on device queries and GPM). Its header is not in the toolkit's Debian packages.
using Device = struct nvmlDevice*;
using Sample = struct nvmlGpmSample*;
constexpr int kSuccess = 0;
struct Support {
  unsigned version = 1;
  unsigned supported = 0;
};
struct Metric {
  unsigned id = 0;
  int status = 0;
  double value = 0;
  std::array<char*, 3> names{};
};
constexpr unsigned kGraphics = 1;     ///< percent of the time that any kernel ran
constexpr unsigned kSm = 2;           ///< percent of multiprocessors that were busy
constexpr unsigned kDram = 10;        ///< percent of the theoretical bandwidth
constexpr size_t kMostMetrics = 512;  ///< of any version of the library: it reads those asked for
struct Query {
  unsigned version = 1;
  unsigned count = 0;
  Sample first = nullptr;
  Sample second = nullptr;
  std::array<Metric, kMostMetrics> metrics{};
};

static_assert(sizeof(Support) == 8 && sizeof(Metric) == 40 && offsetof(Query, metrics) == 24);

struct Library {
  int (*init)() = nullptr;
  int (*by_address)(const char*, Device*) = nullptr;
  int (*energy)(Device, unsigned long long*) = nullptr;  // NOLINT(google-runtime-int): its type
  int (*support)(Device, Support*) = nullptr;
  int (*allocate)(Sample*) = nullptr;
  int (*release)(Sample) = nullptr;
  int (*sample)(Device, Sample) = nullptr;
  int (*metrics)(Query*) = nullptr;
};

/// Null where the library or a function of it is missing, or the driver does not answer.
const Library* library() {
  static const std::optional<Library> kLoaded = []() -> std::optional<Library> {
    base::SharedLibrary shared("libnvidia-ml.so.1");
    Library out;
    shared.find(out.init, "nvmlInit_v2");
    shared.find(out.by_address, "nvmlDeviceGetHandleByPciBusId_v2");
    shared.find(out.energy, "nvmlDeviceGetTotalEnergyConsumption");
    shared.find(out.support, "nvmlGpmQueryDeviceSupport");
    shared.find(out.allocate, "nvmlGpmSampleAlloc");
    shared.find(out.release, "nvmlGpmSampleFree");
    shared.find(out.sample, "nvmlGpmSampleGet");
    shared.find(out.metrics, "nvmlGpmMetricsGet");
    if (!shared.error().empty() || out.init() != kSuccess) return std::nullopt;
    return out;
  }();
  return kLoaded ? &*kLoaded : nullptr;
}

class NvmlMeter final : public ActivityMeter {
 public:
  NvmlMeter(const Library& nvml, Device device) : nvml_(nvml), device_(device) {
    Support support;
    has_samples_ = nvml_.support(device_, &support) == kSuccess && support.supported != 0 &&
                   nvml_.allocate(&first_) == kSuccess && nvml_.allocate(&second_) == kSuccess;
  }
  ~NvmlMeter() override {
    for (const Sample sample : {first_, second_}) {
      if (sample != nullptr) nvml_.release(sample);
    }
  }
  NvmlMeter(const NvmlMeter&) = delete;
  NvmlMeter& operator=(const NvmlMeter&) = delete;

  void begin() override {
    sampled_ = has_samples_ && nvml_.sample(device_, first_) == kSuccess;
    begin_mj_ = energy_mj();
    begin_ns_ = clock_.now_ns();
  }

  Activity end() override {
    Activity out;
    const std::optional<double> end_mj = energy_mj();
    const double seconds = base::seconds_between(begin_ns_, clock_.now_ns());
    // The counter moves on every 0.1 s or so.
    constexpr double kLeastSeconds = 1;
    if (begin_mj_ && end_mj && seconds >= kLeastSeconds) {
      out.power_w = (*end_mj - *begin_mj_) * 1e-3 / seconds;
    }
    if (!sampled_ || nvml_.sample(device_, second_) != kSuccess) return out;
    Query query;
    query.first = first_;
    query.second = second_;
    for (const unsigned id : {kGraphics, kSm, kDram}) query.metrics.at(query.count++).id = id;
    if (nvml_.metrics(&query) != kSuccess) return out;
    const auto share = [&](size_t i) -> std::optional<double> {
      // In too short a time it counts nothing and divides by it.
      const auto& metric = query.metrics.at(i);
      if (metric.status != kSuccess || !std::isfinite(metric.value)) return std::nullopt;
      return metric.value / 100;
    };
    out.busy = share(0);
    out.sm_active = share(1);
    out.dram_active = share(2);
    return out;
  }

 private:
  std::optional<double> energy_mj() const {
    unsigned long long mj = 0;  // NOLINT(google-runtime-int): its type
    if (nvml_.energy(device_, &mj) != kSuccess) return std::nullopt;
    return static_cast<double>(mj);
  }

  const Library& nvml_;
  Device device_;
  base::SteadyClock clock_;
  bool has_samples_ = false;
  bool sampled_ = false;  ///< begin() got one
  Sample first_ = nullptr;
  Sample second_ = nullptr;
  std::optional<double> begin_mj_;
  int64_t begin_ns_ = 0;
};

/// Of several GPUs as one.
class NvmlMeters final : public ActivityMeter {
 public:
  explicit NvmlMeters(std::vector<std::unique_ptr<NvmlMeter>> meters)
      : meters_(std::move(meters)) {}

  void begin() override {
    for (const auto& meter : meters_) meter->begin();
  }

  Activity end() override {
    std::vector<Activity> all;
    for (const auto& meter : meters_) all.push_back(meter->end());
    // What one of them does not tell is not known of all.
    const auto sum = [&](std::optional<double> Activity::*figure) -> std::optional<double> {
      double total = 0;
      for (const Activity& one : all) {
        if (!(one.*figure)) return std::nullopt;
        total += *(one.*figure);
      }
      return total;
    };
    const auto mean = [&](std::optional<double> Activity::*figure) -> std::optional<double> {
      const std::optional<double> total = sum(figure);
      if (!total) return std::nullopt;
      return *total / static_cast<double>(all.size());
    };
    return {.busy = mean(&Activity::busy),
            .sm_active = mean(&Activity::sm_active),
            .dram_active = mean(&Activity::dram_active),
            .power_w = sum(&Activity::power_w)};
  }

 private:
  std::vector<std::unique_ptr<NvmlMeter>> meters_;
};

}  // namespace

std::unique_ptr<ActivityMeter> nvml_meter(const std::vector<std::string>& pci_addresses) {
  const Library* nvml = library();
  std::vector<std::unique_ptr<NvmlMeter>> meters;
  for (const std::string& address : pci_addresses) {
    Device device = nullptr;
    if (nvml == nullptr || nvml->by_address(address.c_str(), &device) != kSuccess) {
      spdlog::debug("no counters of the GPU: NVML does not answer");
      return nullptr;
    }
    meters.push_back(std::make_unique<NvmlMeter>(*nvml, device));
  }
  return std::make_unique<NvmlMeters>(std::move(meters));
}

}  // namespace fourfold::backend::cuda
