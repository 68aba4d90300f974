#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mesh/mesh.h"
#include "runtime/cluster.h"

namespace fourfold::verify {

/// What to verify and under which load.
struct VerifyOptions {
  runtime::ClusterConfig cluster;             ///< everything but the scheme
  int devices = 0;                            ///< of each scheme, where `schemes` does not say
  std::vector<mesh::ParallelConfig> schemes;  ///< to prove and to time
  std::vector<mesh::ParallelConfig> answer_only_schemes;  ///< to prove, not to time

  int32_t input_len = 64;
  int32_t output_len = 32;
  std::vector<int> concurrencies = {1, 8};
  int32_t requests = 0;  ///< per concurrency and repeat; 0: max(4, 2 * concurrency)
  int repeats = 3;
  uint64_t seed = 0;
  std::string command;  ///< as typed, for the report
};

/// Requests of one run at a concurrency.
int32_t requests_at(const VerifyOptions& options, int concurrency);

}  // namespace fourfold::verify
