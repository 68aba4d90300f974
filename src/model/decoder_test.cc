#include "model/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "base/sizes.h"
#include "comm/local/local_world.h"
#include "files/safetensors.h"
#include "model/source.h"

namespace fourfold::model {
namespace {

using tensor::DType;
using tensor::View;

const std::string kGolden = std::string(FOURFOLD_SOURCE_DIR) + "/tests/golden/";

/// A decoder on one rank with one sequence in a cache of its own.
class OneSequence {
 public:
  OneSequence(const std::string& model, const std::string& backend, int64_t positions,
              bool dummy = false, uint64_t dummy_seed = 0)
      : ops_(backend::make_ops(backend, "").value()),
        source_(open_model(model, dummy, dummy_seed).value()),
        groups_(mesh::Mesh::create({}, source_.spec.divisors()).value(),
                comm::make_single(mesh::Axis::kControl)),
        stream_(ops_->make_stream(1, {})),
        arena_(ops_->allocate(Decoder::arena_bytes(source_.spec, *ops_, 1, 1, positions, positions))
                   .value()) {
    decoder_ = Decoder::create(source_, *ops_, groups_, *stream_, positions).value();
    const int64_t blocks = base::ceil_div(positions, kBlockSize);
    for (const LayerSpec& layer : source_.spec.layers) {
      const AttentionSpec& a = layer.attention;
      backend::KvLayer cache{.blocks = blocks,
                             .kv_heads = a.kv_heads,
                             .block_size = kBlockSize,
                             .head_dim = a.head_dim};
      for (void** half : {&cache.keys, &cache.values}) {
        buffers_.push_back(ops_->allocate(blocks * a.kv_heads * kBlockSize * a.head_dim *
                                          size_of(ops_->kv_dtype()))
                               .value());
        *half = buffers_.back().data();
      }
      cache_.push_back(cache);
    }
    table_.resize(static_cast<size_t>(blocks));
    // Blocks in falling order: a cache that ignored the table would be noticed.
    std::iota(table_.rbegin(), table_.rend(), 0);
  }

  /// Appends tokens and gives their logits, [tokens][vocab].
  std::vector<float> run(std::vector<int32_t> tokens) {
    const auto m = static_cast<int64_t>(tokens.size());
    std::vector<int32_t> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(length_));
    std::vector<int32_t> sequences(tokens.size(), 0);
    std::vector<int32_t> indices(tokens.size());
    std::iota(indices.begin(), indices.end(), 0);
    const backend::RowLayout rows{
        view(positions),
        view(sequences),
        {table_.data(), DType::kI32, {1, static_cast<int64_t>(table_.size())}}};
    arena_.reset();
    const View residual = arena_.allocate(DType::kF32, {m, source_.spec.hidden});
    decoder_->embed(*stream_, view(tokens), residual);
    decoder_->run_layers(*stream_, arena_, rows, cache_, residual, nullptr);
    const auto logits = decoder_->logits(*stream_, arena_, residual, view(indices));
    length_ += m;
    return {logits.begin(), logits.end()};
  }

  int64_t vocab() const { return source_.spec.vocab; }

 private:
  static constexpr int64_t kBlockSize = 4;
  static View view(std::vector<int32_t>& values) {
    return {values.data(), DType::kI32, {static_cast<int64_t>(values.size())}};
  }

  std::unique_ptr<backend::Ops> ops_;
  ModelSource source_;
  RankGroups groups_;
  std::unique_ptr<backend::Stream> stream_;
  tensor::Arena arena_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<tensor::Buffer> buffers_;
  std::vector<backend::KvLayer> cache_;
  std::vector<int32_t> table_;
  int64_t length_ = 0;
};

/// The prompts and answers of one golden folder (tests/golden/README.md).
class Golden {
 public:
  explicit Golden(const std::string& name)
      : store_(files::open_safetensors(kGolden + name + "/golden.safetensors").value()) {}

  int prompts() const {
    int n = 0;
    while (store_.find("prompt_" + std::to_string(n)) != nullptr) ++n;
    return n;
  }
  std::vector<int32_t> tokens(const std::string& kind, int i) const {
    const files::TensorEntry* entry = store_.find(kind + "_" + std::to_string(i));
    EXPECT_NE(entry, nullptr) << kind << i;
    const std::span<const std::byte> bytes = store_.files()[entry->file].bytes().subspan(
        static_cast<size_t>(entry->offset), static_cast<size_t>(entry->bytes));
    std::vector<int32_t> out(bytes.size() / sizeof(int32_t));
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
  std::vector<float> logits(int i) const {
    const files::TensorEntry* entry = store_.find("logits_" + std::to_string(i));
    EXPECT_NE(entry, nullptr) << i;
    std::vector<float> out(static_cast<size_t>(entry->rows() * entry->columns()));
    EXPECT_TRUE(store_.read_rows(*entry, 0, entry->rows(), 0, entry->columns(), out).ok());
    return out;
  }

 private:
  files::TensorStore store_;
};

/// Sum of squared differences over sum of squares.
double nmse(std::span<const float> actual, std::span<const float> expected) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(double{actual[i]} - double{expected[i]}, 2);
    norm += std::pow(double{expected[i]}, 2);
  }
  return error / norm;
}

int32_t argmax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::string model_of(const std::string& folder) {
  return folder == "tiny" ? "tiny" : kGolden + folder;
}

class GoldenTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  std::string folder() const { return std::get<0>(GetParam()); }
  std::string backend() const { return std::get<1>(GetParam()); }
};

TEST_P(GoldenTest, LogitsMatchTransformers) {
  const Golden golden(folder());
  ASSERT_GE(golden.prompts(), 2);
  for (int i = 0; i < golden.prompts(); ++i) {
    const std::vector<int32_t> prompt = golden.tokens("prompt", i);
    const std::vector<float> expected = golden.logits(i);
    OneSequence sequence(model_of(folder()), backend(), static_cast<int64_t>(prompt.size()));
    const std::vector<float> all = sequence.run(prompt);
    // Long prompts keep the logits of the last positions only.
    const std::span<const float> actual = std::span(all).last(expected.size());
    EXPECT_LE(nmse(actual, expected), backend() == "reference" ? 1e-9 : 1e-4) << "prompt " << i;
  }
}

/// On reference only: bf16 may flip a near tie, and its logits are compared above.
class GreedyTest : public testing::TestWithParam<std::string> {};

TEST_P(GreedyTest, TokensMatchTransformersFor64Steps) {
  const Golden golden(GetParam());
  for (int i = 0; i < golden.prompts(); ++i) {
    const std::vector<int32_t> prompt = golden.tokens("prompt", i);
    const std::vector<int32_t> expected = golden.tokens("greedy", i);
    ASSERT_EQ(expected.size(), 64U);
    OneSequence sequence(model_of(GetParam()), "reference",
                         static_cast<int64_t>(prompt.size() + expected.size()));
    std::vector<float> logits = sequence.run(prompt);
    std::vector<int32_t> actual;
    while (actual.size() < expected.size()) {
      actual.push_back(argmax(std::span(logits).last(static_cast<size_t>(sequence.vocab()))));
      logits = sequence.run({actual.back()});
    }
    EXPECT_EQ(actual, expected) << "prompt " << i;
  }
}

TEST(Gguf, LlamaWithItsInterleavedHeadsGivesTheAnswersOfTheSameSafetensors) {
  const Golden golden("llama2");
  for (int i = 0; i < golden.prompts(); ++i) {
    const std::vector<int32_t> prompt = golden.tokens("prompt", i);
    const std::vector<float> expected = golden.logits(i);
    OneSequence sequence(kGolden + "llama2-gguf/model.gguf", "reference",
                         static_cast<int64_t>(prompt.size()));
    const std::vector<float> all = sequence.run(prompt);
    EXPECT_LE(nmse(std::span(all).last(expected.size()), expected), 1e-9) << "prompt " << i;
  }
}

TEST(DummyWeights, DependOnTheSeedAloneAndKeepLogitsFinite) {
  const std::vector<int32_t> prompt = {3, 1, 4, 1, 5, 9, 2, 6};
  const auto logits = [&](uint64_t seed) {
    return OneSequence(kGolden + "gemma3", "reference", 8, /*dummy=*/true, seed).run(prompt);
  };
  const std::vector<float> first = logits(1);
  EXPECT_EQ(logits(1), first);
  EXPECT_NE(logits(2), first);
  for (const float x : first) ASSERT_TRUE(std::isfinite(x));
  EXPECT_GT(nmse(std::vector<float>(first.size(), 0.0F), first), 0.9) << "all logits are zero";
}

const auto kFolders = testing::Values("llama2", "llama3", "mistral", "gemma3", "sharded", "tiny");

INSTANTIATE_TEST_SUITE_P(Families, GoldenTest,
                         testing::Combine(kFolders, testing::Values("reference", "cpu")),
                         [](const auto& test) {
                           return std::get<0>(test.param) + "_" + std::get<1>(test.param);
                         });
INSTANTIATE_TEST_SUITE_P(Families, GreedyTest, kFolders,
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace fourfold::model
