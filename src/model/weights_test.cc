// A rank's share of a checkpoint with experts.

#include "model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "files/encoding.h"
#include "files/scratch_folder.h"
#include "model/families_test_support.h"

namespace fourfold::model {
namespace {

using tensor::DType;
using tensor::View;
using testing::HasSubstr;

const std::string kGolden = std::string(FOURFOLD_SOURCE_DIR) + "/tests/golden/";

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// A model's files, its backend, and what its ranks hold.
class SharesTest : public testing::TestWithParam<std::string> {
 protected:
  Weights load(const RankShare& share) {
    return Weights::load(source_, *ops_, *stream_, share).value();
  }

  mesh::Mesh mesh_of(const mesh::ParallelConfig& scheme,
                     const mesh::ExpertPlacement& placement = {}) const {
    return mesh::Mesh::create(scheme, source_.spec.divisors(), placement).value();
  }

  /// Bytes of the file that hold `shard` of a parameter.
  int64_t file_bytes(const Param& param, const ParamShard& shard) const {
    const files::Encoding encoding = source_.tensors->find(param.name)->encoding;
    return shard.rows.size() * shard.columns.size() * files::block_bytes(encoding) /
           files::block_size(encoding);
  }

  /// The weight's matrix, as its products with the unit vectors.
  std::vector<float> values_of(const backend::Weight& weight) {
    const int64_t n = weight.rows();
    const int64_t k = weight.columns();
    tensor::Arena arena(
        ops_->allocate(ops_->scratch_bytes(1, {.rows = k, .columns = k}) + (k + n) * k * 8 + 256)
            .value());
    const View unit = arena.allocate(DType::kF32, {k, k});
    std::fill_n(unit.f32(), k * k, 0.0F);
    for (int64_t i = 0; i < k; ++i) unit.f32()[i * k + i] = 1.0F;
    const View product = arena.allocate(DType::kF32, {k, n});
    ops_->matmul(*stream_, arena, unit, {{weight, product}});
    std::vector<float> out;
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t column = 0; column < k; ++column) out.push_back(product.f32()[column * n + row]);
    }
    return out;
  }

  std::unique_ptr<backend::Ops> ops_ = backend::make_ops("reference", "").value();
  std::unique_ptr<backend::Stream> stream_ = ops_->make_stream(1, {});
  ModelSource source_ = open_model(kGolden + GetParam(), /*dummy=*/false, 0).value();
};

TEST_P(SharesTest, OfARankAreAllItReadsAndAllItPlans) {
  for (const mesh::ParallelConfig& scheme :
       {mesh::ParallelConfig{}, mesh::ParallelConfig{.tp = 2, .ep = 2},
        mesh::ParallelConfig{.dp = 4, .ep = 4}, mesh::ParallelConfig{.pp = 2, .dp = 2, .ep = 2}}) {
    SCOPED_TRACE(mesh::scheme_name(scheme));
    const mesh::Mesh mesh = mesh_of(scheme, mesh::ExpertPlacement::round_robin());
    std::map<std::string, int64_t> expert_bytes;
    for (int rank = 0; rank < mesh.world_size(); ++rank) {
      const RankShare share = share_of(mesh, rank);
      const std::vector<int> split = layer_split(source_.spec, scheme.pp);
      int64_t expected = 0;
      for (const Param& param : source_.spec.params) {
        const auto shard = shard_of(source_.spec, param, share);
        if (!shard || !stage_holds(source_.spec, param, split, share.stage)) continue;
        expected += file_bytes(param, *shard);
        if (param.expert >= 0) expert_bytes[param.name] += file_bytes(param, *shard);
      }
      const Weights weights = load(share);
      EXPECT_EQ(weights.file_bytes_read(), expected);
      EXPECT_EQ(weights.bytes(), weight_bytes(source_.spec, *ops_, share));
    }
    // One expert block: its ranks together hold every expert once.
    for (const auto& [name, bytes] : expert_bytes) {
      EXPECT_EQ(bytes, source_.tensors->find(name)->bytes) << name;
    }
  }
}

TEST_P(SharesTest, HoldTheirOwnExpertsInRisingOrder) {
  const auto placement = mesh::ExpertPlacement::listed({{6, 1, 3}, {0, 2, 4, 5, 7}});
  const mesh::Mesh mesh = mesh_of({.tp = 2, .ep = 2}, placement);
  const auto layer = static_cast<int32_t>(source_.spec.layers.size()) - 1;
  const Weights weights = load(share_of(mesh, 0));
  for (const ParamKind kind :
       {ParamKind::kExpertGate, ParamKind::kExpertUp, ParamKind::kExpertDown}) {
    const auto experts = weights.experts(kind, layer);
    ASSERT_EQ(experts.size(), 3U);
    for (size_t i = 0; i < experts.size(); ++i) {
      const Param& param = source_.spec.param(kind, layer, std::vector<int32_t>{1, 3, 6}[i]);
      std::vector<float> expected(static_cast<size_t>(param.rows * param.columns));
      ASSERT_TRUE(source_.tensors
                      ->read_rows(*source_.tensors->find(param.name), param.first_row,
                                  param.first_row + param.rows, 0, param.columns, expected)
                      .ok());
      EXPECT_EQ(values_of(*experts[i]), expected) << param.name << " " << param.expert;
    }
  }
  EXPECT_TRUE(weights.experts(ParamKind::kExpertUp, -1).empty());
}

INSTANTIATE_TEST_SUITE_P(Golden, SharesTest,
                         testing::Values("mixtral", "deepseek-moe", "mixtral-gguf/model.gguf",
                                         "deepseek-moe-gguf/model.gguf"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

/// The Mixtral checkpoint with the first `from` of its header replaced by `to`, which is as long.
std::string error_of_changed_folder(const std::string& from, const std::string& to) {
  const files::ScratchFolder folder;
  std::string bytes = read_file(kGolden + "mixtral/model.safetensors");
  const size_t at = bytes.find(from);
  EXPECT_NE(at, std::string::npos);
  folder.write("model.safetensors", bytes.replace(at, to.size(), to));
  folder.write("config.json", read_file(kGolden + "mixtral/config.json"));
  return error_of(open_model(folder.path().string(), /*dummy=*/false, 0));
}

TEST(ExpertTensors, ThatAreMissingOrWronglyShapedAreNamed) {
  EXPECT_THAT(error_of_changed_folder("layers.1.block_sparse_moe.experts.5.w2",
                                      "layers.1.block_sparse_moe.experts.9.w2"),
              HasSubstr("\"model.layers.1.block_sparse_moe.experts.5.w2.weight\" is missing"));
  const std::string w2 = R"(experts.0.w2.weight":{"dtype":"BF16","shape":[32,40])";
  const std::string turned = R"(experts.0.w2.weight":{"dtype":"BF16","shape":[40,32])";
  EXPECT_THAT(error_of_changed_folder(w2, turned), HasSubstr("is [40, 32], expected [32, 40]"));
}

TEST(Layers, ThatTheConfigurationDoesNotCountAreNamed) {
  const files::ScratchFolder folder;
  std::string config = read_file(kGolden + "mixtral/config.json");
  const std::string two = "\"num_hidden_layers\": 2";
  const size_t at = config.find(two);
  ASSERT_NE(at, std::string::npos);
  folder.write("config.json", config.replace(at, two.size(), "\"num_hidden_layers\": 1"));
  folder.write("model.safetensors", read_file(kGolden + "mixtral/model.safetensors"));
  EXPECT_THAT(error_of(open_model(folder.path().string(), /*dummy=*/false, 0)),
              testing::AllOf(HasSubstr("says 1 layers"), HasSubstr("\"model.layers.1.")));
}

TEST(ExpertTensors, ThatStackAnotherNumberOfExpertsAreNamed) {
  std::string bytes = read_file(kGolden + "mixtral-gguf/model.gguf");
  const std::string name = "blk.1.ffn_up_exps.weight";
  // After the name: the number of dimensions, then each, the fastest one first.
  const size_t experts = bytes.find(name) + name.size() + sizeof(uint32_t) + 2 * sizeof(uint64_t);
  const uint64_t odd = 7;
  std::memcpy(bytes.data() + experts, &odd, sizeof(odd));
  const files::ScratchFolder folder;
  const auto path = folder.write("model.gguf", bytes);
  EXPECT_THAT(error_of(open_model(path.string(), /*dummy=*/false, 0)),
              HasSubstr("tensor \"blk.1.ffn_up_exps.weight\" is [7, 40, 32], expected [8, 40, 32] "
                        "from the configuration: 8 experts of 40 x 32"));
}

TEST(DummyExperts, DifferFromEachOther) {
  const ModelSource source = open_model(kGolden + "mixtral", /*dummy=*/true, 3).value();
  const auto ops = backend::make_ops("reference", "").value();
  const auto stream = ops->make_stream(1, {});
  const mesh::Mesh mesh = mesh::Mesh::create({}, source.spec.divisors()).value();
  const Weights weights = Weights::load(source, *ops, *stream, share_of(mesh, 0)).value();
  tensor::Arena arena(ops->allocate(1 << 20).value());
  const View x = arena.allocate(DType::kF32, {1, source.spec.hidden});
  std::fill_n(x.f32(), source.spec.hidden, 1.0F);
  std::set<float> first;
  for (int32_t layer = 0; layer < 2; ++layer) {
    for (const backend::Weight* weight : weights.experts(ParamKind::kExpertUp, layer)) {
      const View out = arena.allocate(DType::kF32, {1, weight->rows()});
      ops->matmul(*stream, arena, x, {{*weight, out}});
      EXPECT_TRUE(first.insert(out.f32()[0]).second);
    }
  }
  EXPECT_EQ(first.size(), 16U);
}

}  // namespace
}  // namespace fourfold::model
