#include "runtime/control/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "runtime/control/rank_config_json.h"

namespace fourfold::runtime {
namespace {

using engine::BlockId;
using engine::Chunk;
using engine::SampledToken;
using engine::SlotId;
using engine::SlotStart;
using engine::StepBatch;
using engine::StepId;
using testing::HasSubstr;

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int32_t below(int32_t end) { return std::uniform_int_distribution<int32_t>(0, end - 1)(engine_); }
  uint64_t bits() { return engine_(); }
  float unit() { return std::uniform_real_distribution<float>(0, 1)(engine_); }
  int64_t size() { return static_cast<int64_t>(engine_() >> 20); }

 private:
  std::mt19937_64 engine_;
};

SlotStart random_start(Random& random) {
  SlotStart start{.slot = SlotId(random.below(100)),
                  .sampling = {.temperature = random.unit(),
                               .top_k = random.below(50),
                               .top_p = 1 - random.unit() / 2,
                               .min_p = random.unit(),
                               .repetition_penalty = 1 + random.unit(),
                               .presence_penalty = random.unit(),
                               .frequency_penalty = -random.unit(),
                               .min_tokens = random.below(30),
                               .seed = random.bits(),
                               .choice = random.below(9),
                               .logprobs = random.below(20) - 1},
                  .prompt_tokens = random.below(1000),
                  .history = {},
                  .stop_tokens = {}};
  for (int32_t i = random.below(4); i > 0; --i) {
    start.sampling.logit_bias.push_back({10 - i, 100 * random.unit()});
    start.history.push_back(random.below(50'000));
    start.stop_tokens.push_back(random.below(50'000));
  }
  return start;
}

StepBatch random_batch(Random& random) {
  StepBatch batch;
  batch.step = StepId(random.size());
  batch.trace = random.below(2) == 1;
  for (int32_t i = random.below(4); i > 0; --i) {
    batch.starts.push_back(random_start(random));
  }
  for (int32_t i = random.below(3); i > 0; --i) {
    batch.refs.push_back({StepId(random.size()), random.below(256)});
  }
  for (int32_t i = random.below(6); i > 0; --i) {
    Chunk chunk{.slot = SlotId(random.below(100)),
                .position = random.below(100'000),
                .num_tokens = 1 + random.below(20),
                .num_blocks = random.below(3),
                .sample = random.below(2) == 1};
    chunk.scored = random.below(chunk.num_tokens + (chunk.sample ? 0 : 1));
    for (int32_t t = 0; t < chunk.scored; ++t) batch.targets.push_back(random.below(50'000));
    for (int32_t t = 0; t < chunk.num_tokens; ++t) {
      batch.tokens.push_back(random.below(50'000 + static_cast<int32_t>(batch.refs.size())) -
                             static_cast<int32_t>(batch.refs.size()));
    }
    for (int32_t b = 0; b < chunk.num_blocks; ++b) batch.blocks.emplace_back(random.below(1000));
    batch.chunks.push_back(chunk);
  }
  int32_t rows = 0;
  for (const Chunk& chunk : batch.chunks) rows += chunk.scored + (chunk.sample ? 1 : 0);
  for (int32_t row = random.below(2); row < rows; row += 1 + random.below(2)) {
    batch.masks.push_back({row, text::TokenMask(1 + static_cast<size_t>(random.below(40)))});
    batch.masks.back().allowed[0] = static_cast<uint32_t>(random.below(100'000));
  }
  return batch;
}

StageReport random_report(Random& random) {
  StageReport report{.step = StepId(random.size()), .stage = random.below(8), .output = {}};
  for (int32_t i = random.below(5); i > 0; --i) {
    SampledToken token{.token = random.below(50'000),
                       .logprob = -random.unit(),
                       .top = {},
                       .logits_hash = random.bits()};
    for (int32_t k = random.below(4); k > 0; --k) {
      token.top.push_back({random.below(50'000), -random.unit()});
    }
    report.output.sampled.push_back({token});
  }
  for (int32_t i = random.below(5); i > 0; --i) {
    report.output.trace.push_back({random.below(80) - 1, random.below(512), random.bits()});
  }
  return report;
}

RankConfig random_config(Random& random) {
  RankConfig config;
  config.model = "mödel \"" + std::to_string(random.size());
  config.dummy_weights = random.below(2) == 1;
  config.dummy_seed = random.bits();
  config.group = {.pp = 1 + random.below(8), .dp = 1 + random.below(8), .tp = 1 + random.below(8)};
  config.isa = "avx2";
  config.restarts = random.below(3);
  config.threads = 1 + random.below(64);
  config.gpus = random.below(17);
  for (int32_t i = random.below(5); i > 0; --i) config.cpus.push_back(random.below(256));
  config.limits = {.replicas = 1 + random.below(4),
                   .stages = 1 + random.below(8),
                   .depth = 1 + random.below(9),
                   .slots = random.below(300),
                   .max_step_tokens = random.below(9000),
                   .block_size = 1 + random.below(256),
                   .blocks = random.size(),
                   .max_positions = random.below(200'000)};
  config.dummy_routing = {.natural = false, .exponent = 0.5 * random.below(4)};
  config.expert_exchange = static_cast<model::ExchangeKind>(random.below(3));
  if (random.below(2) == 1) config.expert_placement = mesh::ExpertPlacement::round_robin();
  if (random.below(2) == 1) {
    config.expert_placement =
        mesh::ExpertPlacement::listed({{random.below(9), 20}, {10 + random.below(9)}});
  }
  return config;
}

RankStats random_stats(Random& random) {
  RankStats stats{.steps = random.size(),
                  .fast_steps = random.size(),
                  .zero_row_steps = random.size(),
                  .rows = random.size(),
                  .ops = {random.size(), random.size(), random.size(), random.unit()},
                  .comm = {},
                  .experts = {},
                  .peak_rss_bytes = random.size(),
                  .peaks = {random.unit(), random.unit()}};
  for (const mesh::Axis axis : {mesh::Axis::kTensor, mesh::Axis::kPipeline, mesh::Axis::kControl}) {
    stats.comm.push_back({axis, {random.unit(), random.unit(), random.size(), random.size()}});
  }
  stats.experts.dispatched_bytes = random.size();
  stats.experts.combined_bytes = random.size();
  for (int32_t i = random.below(3); i > 0; --i) {
    stats.experts.layers.push_back({.layer = random.below(80),
                                    .steps = random.size(),
                                    .distinct = random.size(),
                                    .rows = {random.size(), random.size()}});
  }
  return stats;
}

comm::Position random_position(Random& random) {
  comm::Position position{
      .marks = random.size(),
      .age_ns = random.size(),
      .step = random.below(100),
      .layer = random.below(8),
      .layer_ns = random.size(),
      .operation = static_cast<comm::Operation>(random.below(comm::kOperations))};
  if (random.below(2) == 1) {
    position.call = {.kind = static_cast<comm::CallKind>(random.below(comm::kCallKinds)),
                     .axis = mesh::Axis::kPipeline,
                     .sequence = random.size(),
                     .peer = random.below(3)};
  }
  return position;
}

/// One message of every type.
std::vector<Message> random_messages(Random& random) {
  return {Hello{random.below(8), "secret"},
          Config{random_config(random)},
          Ready{{random.size(), random.size(), random.size(), random.size(), random.unit()}},
          Step{{random_batch(random), random_batch(random)}},
          Report{random_report(random)},
          StatsRequest{},
          Stats{random_stats(random)},
          Ping{},
          Pong{random_position(random)},
          Shutdown{},
          Failure{.text = "no such file", .own_fault = true},
          Crash{.signal = 11}};
}

base::Result<Message> decode_frame(std::span<const std::byte> frame) {
  if (frame.size() < kFrameHeaderBytes) return base::fail("no header");
  FF_ASSIGN(const FrameHeader header, decode_header(frame));
  if (frame.size() - kFrameHeaderBytes != header.payload_bytes) return base::fail("other length");
  return decode_payload(header.type, frame.subspan(kFrameHeaderBytes));
}

TEST(Frame, EveryMessageComesBackAsItWas) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    const std::vector<Message> messages = random_messages(random);
    ASSERT_EQ(messages.size(), std::variant_size_v<Message>);
    for (size_t i = 0; i < messages.size(); ++i) {
      ASSERT_EQ(messages[i].index(), i);
      const std::vector<std::byte> frame = encode_frame(messages[i]);
      const base::Result<Message> back = decode_frame(frame);
      ASSERT_TRUE(back.ok()) << i << ": " << back.error().message;
      ASSERT_EQ(back->index(), i);
      EXPECT_EQ(encode_frame(*back), frame) << "type " << i << ", seed " << seed;
    }
  }
}

TEST(Frame, KeepsEveryFieldOfAStepAndItsReport) {
  Random random(1);
  StepBatch batch = random_batch(random);
  batch.starts.push_back({.slot = SlotId(3),
                          .sampling = {.temperature = 0.5F,
                                       .top_k = 4,
                                       .top_p = 0.75F,
                                       .min_p = 0.25F,
                                       .repetition_penalty = 1.5F,
                                       .presence_penalty = -2,
                                       .frequency_penalty = 2,
                                       .logit_bias = {{7, -100}, {9, 100}},
                                       .min_tokens = 12,
                                       .seed = ~0ULL,
                                       .choice = 5,
                                       .logprobs = 3},
                          .prompt_tokens = 11,
                          .history = {1, 2, 3},
                          .stop_tokens = {4}});
  StepBatch empty;
  empty.step = StepId(4);
  const base::Result<Message> step = decode_frame(encode_frame(Step{{batch, empty}}));
  ASSERT_TRUE(step.ok());
  ASSERT_EQ(std::get<Step>(*step).batches.size(), 2U);
  EXPECT_EQ(std::get<Step>(*step).batches[0], batch);
  EXPECT_EQ(std::get<Step>(*step).batches[1], empty);

  const StageReport sent = random_report(random);
  const base::Result<Message> back = decode_frame(encode_frame(Report{sent}));
  ASSERT_TRUE(back.ok());
  const StageReport& got = std::get<Report>(*back).report;
  EXPECT_EQ(got.step, sent.step);
  EXPECT_EQ(got.stage, sent.stage);
  EXPECT_EQ(got.output.sampled, sent.output.sampled);
  EXPECT_EQ(got.output.trace, sent.output.trace);
}

TEST(Frame, KeepsEveryFieldOfARanksStatistics) {
  Random random(2);
  const RankStats sent = random_stats(random);
  const base::Result<Message> back = decode_frame(encode_frame(Stats{sent}));
  ASSERT_TRUE(back.ok());
  const RankStats& got = std::get<Stats>(*back).stats;
  EXPECT_EQ(got.steps, sent.steps);
  EXPECT_EQ(got.fast_steps, sent.fast_steps);
  EXPECT_EQ(got.zero_row_steps, sent.zero_row_steps);
  EXPECT_EQ(got.experts, sent.experts);
  EXPECT_EQ(got.rows, sent.rows);
  EXPECT_EQ(got.ops.matmul_flops, sent.ops.matmul_flops);
  EXPECT_EQ(got.ops.attention_flops, sent.ops.attention_flops);
  EXPECT_EQ(got.ops.bytes, sent.ops.bytes);
  EXPECT_EQ(got.ops.seconds, sent.ops.seconds);
  EXPECT_EQ(got.peaks.matmul_flop_s, sent.peaks.matmul_flop_s);
  EXPECT_EQ(got.peaks.read_bytes_s, sent.peaks.read_bytes_s);
  ASSERT_EQ(got.comm.size(), 3U);
  EXPECT_EQ(got.comm[1].first, mesh::Axis::kPipeline);
  EXPECT_EQ(got.comm[1].second.seconds, sent.comm[1].second.seconds);
  EXPECT_EQ(got.comm[1].second.wait_seconds, sent.comm[1].second.wait_seconds);
  EXPECT_EQ(got.comm[1].second.bytes, sent.comm[1].second.bytes);
  EXPECT_EQ(got.comm[1].second.calls, sent.comm[1].second.calls);
  EXPECT_EQ(got.peak_rss_bytes, sent.peak_rss_bytes);
}

TEST(Frame, KeepsEveryFieldOfARanksMemoryAndHello) {
  const base::Result<Message> ready = decode_frame(encode_frame(Ready{{1, 2, 3, 4, 0.5}}));
  ASSERT_TRUE(ready.ok());
  const RankMemory& memory = std::get<Ready>(*ready).memory;
  EXPECT_EQ(memory.weight_bytes, 1);
  EXPECT_EQ(memory.file_bytes_read, 2);
  EXPECT_EQ(memory.kv_bytes, 3);
  EXPECT_EQ(memory.activation_bytes, 4);
  EXPECT_EQ(memory.load_s, 0.5);
  const base::Result<Message> hello = decode_frame(encode_frame(Hello{7, "word"}));
  ASSERT_TRUE(hello.ok());
  EXPECT_EQ(std::get<Hello>(*hello).rank, 7);
  EXPECT_EQ(std::get<Hello>(*hello).secret, "word");
}

TEST(Frame, RefusesEveryTruncation) {
  Random random(3);
  for (const Message& message : random_messages(random)) {
    const std::vector<std::byte> frame = encode_frame(message);
    const std::span<const std::byte> payload = std::span(frame).subspan(kFrameHeaderBytes);
    const auto type = static_cast<uint16_t>(message.index());
    for (size_t size = 0; size < payload.size(); ++size) {
      EXPECT_FALSE(decode_payload(type, payload.first(size)).ok())
          << "type " << type << ", " << size;
    }
    std::vector<std::byte> longer(payload.begin(), payload.end());
    longer.emplace_back();
    EXPECT_FALSE(decode_payload(type, longer).ok()) << "type " << type;
  }
}

TEST(Frame, SurvivesEveryFlippedBitAndTreatsItAsAnotherMessageOrAnError) {
  Random random(4);
  int refused = 0;
  for (const Message& message : random_messages(random)) {
    const std::vector<std::byte> frame = encode_frame(message);
    for (size_t bit = 0; bit < 8 * frame.size(); ++bit) {
      std::vector<std::byte> flipped = frame;
      flipped[bit / 8] ^= std::byte{1} << (bit % 8);
      const base::Result<Message> back = decode_frame(flipped);
      if (!back.ok()) {
        ++refused;
      } else if (!std::holds_alternative<Config>(message)) {  // JSON may be written in several ways
        EXPECT_EQ(encode_frame(*back), flipped);
      }
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(Frame, ACountThatLiesCostsNoMemory) {
  // Four billion batches, sequences and so on, in a payload of a few bytes.
  for (uint16_t type = 0; type < std::variant_size_v<Message>; ++type) {
    for (size_t size = 0; size < 200; ++size) {
      const std::vector<std::byte> payload(size, std::byte{0xff});
      const base::Result<Message> back = decode_payload(type, payload);
      if (back.ok()) {
        EXPECT_EQ(encode_frame(*back).size(), kFrameHeaderBytes + size);
      }
    }
  }
}

TEST(Frame, RefusesAStepWhoseArraysDoNotFitItsChunks) {
  const StepBatch good{
      .step = StepId(7),
      .starts = {{.slot = SlotId(1)}},
      .chunks = {{.slot = SlotId(1), .num_tokens = 2, .num_blocks = 1, .sample = true}},
      .tokens = {5, -1},
      .refs = {{StepId(6), 0}},
      .blocks = {BlockId(9)},
      .masks = {{0, {3}}}};
  ASSERT_TRUE(decode_frame(encode_frame(Step{{good}})).ok());
  const auto refused = [&](auto change) {
    StepBatch bad = good;
    change(bad);
    const base::Result<Message> back = decode_frame(encode_frame(Step{{good, bad}}));
    return !back.ok() && back.error().message.find("fit its chunks") != std::string::npos;
  };
  EXPECT_TRUE(refused([](StepBatch& b) { b.step = StepId(); }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.starts[0].slot = SlotId(); }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.starts[0].prompt_tokens = -1; }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.chunks[0].slot = SlotId(); }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.chunks[0].position = -1; }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.chunks[0].num_tokens = 0; }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.chunks[0].num_tokens = 3; }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.chunks[0].num_blocks = 2; }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.tokens.push_back(1); }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.tokens[1] = -2; }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.tokens[1] = std::numeric_limits<int32_t>::min(); }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.refs[0].row = -1; }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.blocks[0] = BlockId(); }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.masks[0].row = -1; }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.masks[0].row = 1; }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.masks[0].allowed.clear(); }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.masks.push_back(b.masks[0]); }));
  EXPECT_TRUE(refused([](StepBatch& b) { b.chunks[0].sample = false; }));
  EXPECT_TRUE(refused([](StepBatch& b) {
    b.chunks[0].num_tokens = std::numeric_limits<int32_t>::max();
    b.chunks.push_back(b.chunks[0]);
    b.chunks.push_back({.slot = SlotId(1), .num_tokens = 4});  // 2^32 + 2 in all
  }));
}

TEST(Frame, RefusesSamplingParametersOutOfTheirRange) {
  const auto error_of = [](const engine::SamplingParams& sampling) {
    StepBatch batch;
    batch.step = StepId(0);
    batch.starts.push_back({.slot = SlotId(0), .sampling = sampling});
    const base::Result<Message> back = decode_frame(encode_frame(Step{{batch}}));
    return back.ok() ? std::string() : back.error().message;
  };
  EXPECT_EQ(error_of({}), "");
  EXPECT_THAT(error_of({.temperature = std::numeric_limits<float>::quiet_NaN()}),
              HasSubstr("temperature is nan"));
  EXPECT_THAT(error_of({.top_p = 0}), HasSubstr("top_p is 0"));
  EXPECT_THAT(error_of({.logit_bias = {{5, 1}, {5, 1}}}), HasSubstr("logit_bias"));
  EXPECT_THAT(error_of({.logit_bias = std::vector<engine::LogitBias>(2000)}),
              HasSubstr("at most 1024"));
}

TEST(Frame, AHistoryThatIsLongerThanTheFrameIsRefused) {
  StepBatch batch;
  batch.step = StepId(0);
  batch.starts.push_back({.slot = SlotId(0), .history = {7, 7, 7}});
  const std::vector<std::byte> frame = encode_frame(Step{{batch}});
  const uint32_t count = 3;
  const auto* bytes = reinterpret_cast<const std::byte*>(&count);
  const auto at = std::search(frame.begin(), frame.end(), bytes, bytes + sizeof count);
  ASSERT_NE(at, frame.end());
  for (const uint32_t lie : {0U, 2U, 4U, 1U << 20, ~0U}) {
    std::vector<std::byte> bad = frame;
    std::memcpy(bad.data() + (at - frame.begin()), &lie, sizeof lie);
    EXPECT_FALSE(decode_frame(bad).ok()) << lie;
  }
}

TEST(Frame, ABadHeaderSaysWhatWasExpected) {
  const std::vector<std::byte> good = encode_frame(Ping{});
  const auto message_of = [&](size_t offset, auto value) {
    std::vector<std::byte> bad = good;
    std::memcpy(bad.data() + offset, &value, sizeof value);
    const base::Result<FrameHeader> header = decode_header(bad);
    return header.ok() ? std::string() : header.error().message;
  };
  EXPECT_THAT(message_of(0, uint32_t{0x20544547}), HasSubstr("expected 0x4b464634"));
  EXPECT_THAT(message_of(4, uint16_t{9}),
              HasSubstr(fmt::format("version 9, expected {}", kProtocolVersion)));
  EXPECT_THAT(message_of(6, uint16_t{12}), HasSubstr("type 12"));
  EXPECT_THAT(message_of(8, uint32_t{0xffffffff}), HasSubstr("at most 268435456"));
}

TEST(RankConfigJson, KeepsEveryField) {
  for (uint32_t seed = 0; seed < 100; ++seed) {
    Random random(seed);
    const RankConfig config = random_config(random);
    const base::Result<RankConfig> back = rank_config_from_json(to_json(config));
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(back->model, config.model);
    EXPECT_EQ(back->dummy_weights, config.dummy_weights);
    EXPECT_EQ(back->dummy_seed, config.dummy_seed);
    EXPECT_EQ(back->group, config.group);
    EXPECT_EQ(back->backend, config.backend);
    EXPECT_EQ(back->isa, config.isa);
    EXPECT_EQ(back->threads, config.threads);
    EXPECT_EQ(back->gpus, config.gpus);
    EXPECT_EQ(back->cpus, config.cpus);
    EXPECT_EQ(back->restarts, config.restarts);
    EXPECT_EQ(back->limits.replicas, config.limits.replicas);
    EXPECT_EQ(back->limits.stages, config.limits.stages);
    EXPECT_EQ(back->limits.depth, config.limits.depth);
    EXPECT_EQ(back->limits.slots, config.limits.slots);
    EXPECT_EQ(back->limits.max_step_tokens, config.limits.max_step_tokens);
    EXPECT_EQ(back->limits.block_size, config.limits.block_size);
    EXPECT_EQ(back->limits.blocks, config.limits.blocks);
    EXPECT_EQ(back->limits.max_positions, config.limits.max_positions);
    EXPECT_EQ(back->dummy_routing, config.dummy_routing);
    EXPECT_EQ(back->expert_placement, config.expert_placement);
    EXPECT_EQ(back->expert_exchange, config.expert_exchange);
    EXPECT_EQ(to_json(*back), to_json(config));
  }
}

TEST(RankConfigJson, NamesTheKeyThatIsWrong) {
  const auto error_of = [](std::string_view from, std::string_view to) {
    std::string text = to_json(RankConfig{});
    const size_t at = text.find(from);
    CHECK(at != std::string::npos, "{} has no {}", text, from);
    text.replace(at, from.size(), to);
    const base::Result<RankConfig> config = rank_config_from_json(text);
    return config.ok() ? std::string() : config.error().message;
  };
  EXPECT_THAT(error_of("\"threads\":1", "\"threads\":0"), HasSubstr("\"threads\""));
  EXPECT_THAT(error_of("\"threads\":1", "\"threads\":3000000000"), HasSubstr("\"threads\""));
  EXPECT_THAT(error_of("\"threads\":1", "\"other\":1"), HasSubstr("\"threads\""));
  EXPECT_THAT(error_of("\"cpus\":[]", "\"cpus\":[-1]"), HasSubstr("\"cpus\""));
  EXPECT_THAT(error_of("\"cpus\":[]", "\"cpus\":{}"), HasSubstr("\"cpus\""));
  EXPECT_THAT(error_of("\"tp\":1", "\"tp\":\"1\""), HasSubstr("\"tp\""));
  EXPECT_THAT(error_of("{", "["), HasSubstr("rank configuration"));
  EXPECT_THAT(error_of("\"linear\"", "\"spiral\""), HasSubstr("\"spiral\""));
  EXPECT_THAT(error_of("\"expert_placement\"", "\"other\""), HasSubstr("\"expert_placement\""));
  EXPECT_THAT(error_of("\"auto\"", "\"pigeon\""), HasSubstr("\"pigeon\""));
}

}  // namespace
}  // namespace fourfold::runtime
