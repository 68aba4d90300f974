#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fourfold::route {

/// What a replica's /metrics tells of its load, by vLLM's names; of all its engines together.
struct ReplicaFigures {
  std::optional<double> kv_usage;   ///< share of the KV cache in use: the fullest engine's
  std::optional<int64_t> requests;  ///< running and waiting
};

/// Reads a page in Prometheus' text format. What is no such line is skipped.
ReplicaFigures read_figures(std::string_view page);

}  // namespace fourfold::route
