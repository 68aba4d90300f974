#pragma once

#include <cstdint>
#include <filesystem>

namespace fourfold::runtime {

/// Bytes that this process can still take: what the machine has available (MemAvailable of
/// proc(5)), or less where a control group above the process, of version 1 or 2, leaves less. File
/// cache that can be dropped counts as free in both. `root` is where /proc and /sys are; 1 GiB
/// where nothing can be read.
int64_t available_memory_bytes(const std::filesystem::path& root = "/");

}  // namespace fourfold::runtime
