#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "comm/progress.h"
#include "engine/step.h"
#include "runtime/worker.h"

namespace fourfold::runtime {

/// What front and worker say to each other over the control channel. All are plain values: no code
/// and no pointers ever travel.

/// Worker to front, first of all: which rank this is. `secret` proves that the front started it.
struct Hello {
  int32_t rank = 0;
  std::string secret;
};
/// Front to worker: what to load.
struct Config {
  RankConfig config;
};
/// Worker to front: the shard is loaded.
struct Ready {
  RankMemory memory;
};
/// Front to worker: execute this step, one batch per replica of the block.
struct Step {
  std::vector<engine::StepBatch> batches;
};
/// Worker to front: a stage's part of a step's output.
struct Report {
  StageReport report;
};
/// Front to worker: answer with Stats when all steps before this are done.
struct StatsRequest {
  double peaks_s = 0;  ///< > 0: measure the rank's peaks first, for so long
};
struct Stats {
  RankStats stats;
};
/// Front to worker, answered at once by a Pong even while a step runs.
struct Ping {};
struct Pong {
  comm::Position position;  ///< where the rank is in its work
};
/// Front to worker: finish the steps before this and exit.
struct Shutdown {};
/// Worker to front: this rank cannot go on; the last thing it says.
struct Failure {
  std::string text;
  bool own_fault = false;  ///< not because another rank is gone
};
/// Worker to front, from a handler of this signal: the rank is about to end by it.
struct Crash {
  int32_t signal = 0;
};

using Message = std::variant<Hello, Config, Ready, Step, Report, StatsRequest, Stats, Ping, Pong,
                             Shutdown, Failure, Crash>;

/// A frame is a header of 12 bytes (magic u32, version u16, type u16 = index in Message, payload
/// length u32, all little-endian) and the payload. Front and workers are the same program, so the
/// version has to match exactly.
inline constexpr size_t kFrameHeaderBytes = 12;
inline constexpr uint32_t kFrameMagic = 0x4b464634;  ///< "4FFK"
inline constexpr uint16_t kProtocolVersion = 5;
inline constexpr size_t kMaxPayloadBytes = size_t{256} << 20;

struct FrameHeader {
  uint16_t type = 0;
  size_t payload_bytes = 0;
};

/// The whole frame, header included. A payload above kMaxPayloadBytes is a bug.
std::vector<std::byte> encode_frame(const Message& message);

/// `bytes` has at least kFrameHeaderBytes. Errors: not a frame, another version, an unknown type, a
/// payload that is too long.
base::Result<FrameHeader> decode_header(std::span<const std::byte> bytes);

/// Every size is checked against the payload before it is used, so any bytes give a message or an
/// Error. Step batches are checked to be consistent in themselves (arrays as long as the chunks
/// say).
base::Result<Message> decode_payload(uint16_t type, std::span<const std::byte> payload);

}  // namespace fourfold::runtime
