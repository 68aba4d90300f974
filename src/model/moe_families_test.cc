// Every family with experts, cut over ranks: the bits of one device.

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "model/golden_test_support.h"

namespace fourfold::model {
namespace {

/// The logits of the prompt on each shard of the scheme.
std::vector<std::vector<float>> logits_of_shards(const ModelSource& source,
                                                 const std::string& backend,
                                                 const mesh::ParallelConfig& scheme,
                                                 const std::vector<int32_t>& prompt) {
  comm::LocalWorld world(scheme.tp);
  std::vector<std::vector<float>> out(static_cast<size_t>(scheme.tp));
  std::vector<std::jthread> threads;
  for (int shard = 0; shard < scheme.tp; ++shard) {
    threads.emplace_back([&, shard] {
      OneSequence sequence(source, backend, static_cast<int64_t>(prompt.size()), scheme,
                           world.communicator(shard));
      out[static_cast<size_t>(shard)] = sequence.run(prompt);
    });
  }
  threads.clear();
  return out;
}

class MoeFamily : public testing::TestWithParam<std::string> {};

TEST_P(MoeFamily, HasTheBitsOfOneDeviceOnEveryLegalSchemeOfOneReplica) {
  const ModelSource source = open_model(kGolden + GetParam(), /*dummy=*/false, 0).value();
  const std::vector<int32_t> prompt = Golden(GetParam()).tokens("prompt", 1);
  for (const std::string& backend : golden_backends()) {
    const std::vector<float> alone = logits_of_shards(source, backend, {}, prompt).front();
    int schemes = 0;
    for (const int devices : {2, 4}) {
      for (const mesh::ParallelConfig& scheme : mesh::schemes(devices, source.spec.divisors())) {
        const bool one_replica = scheme.tp == devices;
        if (!one_replica || !mesh::Mesh::create(scheme, source.spec.divisors()).ok()) continue;
        ++schemes;
        for (const auto& logits : logits_of_shards(source, backend, scheme, prompt)) {
          EXPECT_EQ(logits, alone) << backend << " " << mesh::scheme_name(scheme);
        }
      }
    }
    EXPECT_GE(schemes, 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, MoeFamily,
                         testing::Values("mixtral", "qwen2-moe", "qwen3-moe", "deepseek-moe",
                                         "olmoe"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace fourfold::model
