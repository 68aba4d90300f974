#include "model/step_inputs.h"

#include <algorithm>

namespace fourfold::model {

using tensor::DType;
using tensor::View;

int64_t StepPacker::bytes(const Limits& limits) {
  // Positions, sequences, tokens, sampled rows with their draws, and two numbers a tile.
  return ((6 + backend::kDrawWords) * limits.rows + limits.entries) * size_of(DType::kI32);
}

base::Result<StepPacker> StepPacker::create(const backend::Ops& ops, const Limits& limits,
                                            int steps) {
  std::vector<tensor::Buffer> host(static_cast<size_t>(steps));
  for (tensor::Buffer& buffer : host) {
    FF_ASSIGN(buffer, ops.allocate_host(bytes(limits)));
  }
  tensor::Buffer device;
  if (!ops.in_host_memory()) {
    FF_ASSIGN(device, ops.allocate(bytes(limits)));
  }
  return StepPacker(ops, std::move(host), std::move(device));
}

View StepPacker::take(tensor::Shape shape) {
  const int64_t begin = used_;
  used_ += shape.elements();
  CHECK(used_ * size_of(DType::kI32) <= host().bytes(), "a step of {} numbers in {} bytes", used_,
        host().bytes());
  return {static_cast<int32_t*>(host().data()) + begin, DType::kI32, shape};
}

StepPacker::Fields StepPacker::begin(int64_t rows, int64_t sequences, int64_t width,
                                     int64_t sampled) {
  used_ = 0;
  turn_ = (turn_ + 1) % host_.size();
  fields_.positions = take({rows});
  fields_.sequences = take({rows});
  fields_.block_tables = take({sequences, width});
  fields_.tokens = take({rows});
  fields_.sampled = take({sampled});
  fields_.draws = take({sampled, backend::kDrawWords});
  return fields_;
}

StepInputs StepPacker::finish(backend::Stream& stream) {
  const backend::RowTiles tiles =
      backend::tiles_of({fields_.sequences.i32(), static_cast<size_t>(fields_.sequences.rows())});
  const View tile_view = take({std::ssize(tiles.entries) / 2, 2});
  std::copy(tiles.entries.begin(), tiles.entries.end(), tile_view.i32());
  host_rows_ = {.positions = fields_.positions,
                .sequences = fields_.sequences,
                .block_tables = fields_.block_tables,
                .tiles = tile_view,
                .single_tiles = tiles.single};
  StepInputs in{.rows = host_rows_,
                .tokens = fields_.tokens,
                .sampled = fields_.sampled,
                .draws = fields_.draws};
  if (ops_->in_host_memory()) return in;

  ops_->copy_in(stream, {host().data(), DType::kI32, {used_}},
                {device_.data(), DType::kI32, {used_}});
  const auto move = [this](View& view) {
    view.data = static_cast<std::byte*>(device_.data()) +
                (static_cast<std::byte*>(view.data) - static_cast<std::byte*>(host().data()));
  };
  for (View* view : {&in.rows.positions, &in.rows.sequences, &in.rows.block_tables, &in.rows.tiles,
                     &in.tokens, &in.sampled, &in.draws}) {
    move(*view);
  }
  in.rows.host = &host_rows_;
  return in;
}

}  // namespace fourfold::model
