#include "files/encoding.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "files/mapped_file.h"

namespace fourfold::files {
namespace {

MappedFile fixture(const std::string& name) {
  return MappedFile::open(std::filesystem::path(FOURFOLD_SOURCE_DIR) / "src/files/testdata" / name)
      .value();
}

std::vector<uint32_t> bits_of(std::span<const float> values) {
  std::vector<uint32_t> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size_bytes());
  return bits;
}

class QuantisedEncoding : public testing::TestWithParam<Encoding> {};

// testdata/make_quant_fixture.py: the oracle is llama.cpp's `gguf` Python package.
TEST_P(QuantisedEncoding, DecodesBitForBitAsGgml) {
  const std::string name(encoding_name(GetParam()));
  const MappedFile blocks = fixture(name + ".blocks");
  const MappedFile expected_file = fixture(name + ".f32");
  std::vector<float> expected(static_cast<size_t>(expected_file.size()) / sizeof(float));
  std::memcpy(expected.data(), expected_file.bytes().data(), expected_file.bytes().size());
  ASSERT_EQ(expected.size(), 1024);

  std::vector<float> decoded(expected.size());
  const base::Status status = decode_row(GetParam(), blocks.bytes(), decoded);
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(bits_of(decoded), bits_of(expected));
}

INSTANTIATE_TEST_SUITE_P(Ggml, QuantisedEncoding,
                         testing::Values(Encoding::kQ4_0, Encoding::kQ4_1, Encoding::kQ5_0,
                                         Encoding::kQ5_1, Encoding::kQ8_0, Encoding::kQ4_K,
                                         Encoding::kQ5_K, Encoding::kQ6_K),
                         [](const auto& test) { return std::string(encoding_name(test.param)); });

TEST(HalfToFloat, IsExactForEveryHalf) {
  for (uint32_t half = 0; half <= 0xffff; ++half) {
    const int exponent = static_cast<int>(half >> 10 & 0x1f);
    const int fraction = static_cast<int>(half & 0x3ff);
    const float actual = half_to_float(static_cast<uint16_t>(half));
    ASSERT_EQ(std::signbit(actual), half >> 15 != 0) << half;
    if (exponent == 31 && fraction != 0) {
      ASSERT_TRUE(std::isnan(actual)) << half;
      continue;
    }
    const float magnitude = exponent == 31 ? std::numeric_limits<float>::infinity()
                            : exponent == 0
                                ? std::ldexp(static_cast<float>(fraction), -24)
                                : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    ASSERT_EQ(std::abs(actual), magnitude) << half;
  }
}

template <typename T>
std::vector<float> decode_values(Encoding encoding, const std::vector<T>& values) {
  std::vector<float> out(values.size());
  const base::Status status = decode_row(encoding, std::as_bytes(std::span(values)), out);
  EXPECT_TRUE(status.ok()) << status.error().message;
  return out;
}

TEST(DecodeRow, WidensOrNarrowsPlainNumbers) {
  EXPECT_EQ(decode_values<float>(Encoding::kF32, {1.5f, -0x1p-149f}),
            (std::vector<float>{1.5f, -0x1p-149f}));
  EXPECT_EQ(decode_values<double>(Encoding::kF64, {1.5, 1.0 / 3.0}),
            (std::vector<float>{1.5f, 1.0f / 3.0f}));
  EXPECT_EQ(decode_values<uint16_t>(Encoding::kF16, {0x3e00, 0x8001}),
            (std::vector<float>{1.5f, -0x1p-24f}));
  EXPECT_EQ(decode_values<uint16_t>(Encoding::kBF16, {0x3fc0, 0x8001}),
            (std::vector<float>{1.5f, -0x1p-133f}));
}

TEST(DecodeRow, RefusesPartsOfABlockAndSizesThatDisagree) {
  const std::vector<std::byte> bytes(68);
  std::vector<float> out(64);
  EXPECT_TRUE(decode_row(Encoding::kQ8_0, bytes, out).ok());
  EXPECT_FALSE(decode_row(Encoding::kQ8_0, bytes, std::span(out).first(32)).ok());
  EXPECT_FALSE(decode_row(Encoding::kQ8_0, std::span(bytes).first(34), out).ok());
  const base::Status status =
      decode_row(Encoding::kQ8_0, std::span(bytes).first(17), std::span(out).first(16));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message,
            "17 bytes of Q8_0 do not hold 16 elements: a block of 32 elements has 34 bytes");
}

TEST(DecodeRow, RefusesIntegers) {
  const std::vector<std::byte> bytes(8);
  std::vector<float> out(1);
  const base::Status status = decode_row(Encoding::kI64, bytes, out);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message,
            "I64 holds integers; expected weights in floating point or quantised blocks");
}

TEST(Encoding, IsFoundByTheNamesAndNumbersOfTheFormats) {
  EXPECT_EQ(encoding_of_safetensors("BF16"), Encoding::kBF16);
  EXPECT_EQ(encoding_of_safetensors("Q4_K"), std::nullopt);
  EXPECT_EQ(encoding_of_safetensors("F8_E4M3"), std::nullopt);
  EXPECT_EQ(encoding_of_gguf(0), Encoding::kF32);
  EXPECT_EQ(encoding_of_gguf(12), Encoding::kQ4_K);
  EXPECT_EQ(encoding_of_gguf(30), Encoding::kBF16);
  EXPECT_EQ(encoding_of_gguf(10), std::nullopt);
  EXPECT_EQ(encoding_of_gguf(0xffffffff), std::nullopt);
}

}  // namespace
}  // namespace fourfold::files
