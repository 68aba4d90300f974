#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/activity.h"

namespace fourfold::backend::cuda {

/// The counters of the GPUs with these PCI addresses ("0000:1b:00.0") by NVML, which comes with the
/// driver and is loaded at run time. Null where it is not there.
std::unique_ptr<ActivityMeter> nvml_meter(const std::vector<std::string>& pci_addresses);

}  // namespace fourfold::backend::cuda
