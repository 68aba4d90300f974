// A control frame: a header of 12 bytes and a payload that need not agree with it.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "runtime/control/frame.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  const auto bytes = std::as_bytes(std::span(input));
  if (bytes.size() < runtime::kFrameHeaderBytes) return;
  (void)runtime::decode_header(bytes);
  // The type alone decides how a payload is read.
  uint16_t type = 0;
  std::memcpy(&type, bytes.data() + 6, sizeof type);
  const auto message = runtime::decode_payload(type, bytes.subspan(runtime::kFrameHeaderBytes));
  if (!message.ok()) return;
  const std::vector<std::byte> frame = runtime::encode_frame(*message);
  const auto header = runtime::decode_header(frame);
  const auto payload = std::span(frame).subspan(runtime::kFrameHeaderBytes);
  CHECK(header.ok() && header->type == type && header->payload_bytes == payload.size(),
        "a message of type {} has another header", type);
  const auto again = runtime::decode_payload(type, payload);
  CHECK(again.ok() && std::ranges::equal(runtime::encode_frame(*again), frame),
        "a message of type {} does not come back", type);
}

}  // namespace fourfold::fuzz
