#!/usr/bin/env python3
"""Makes the fixture of encoding_test.cc: for each ggml encoding E, `E.blocks` (random blocks as they
lie in a GGUF file) and `E.f32` (what the `gguf` package of llama.cpp decodes them to, fp32).

    pip install gguf==0.19.0 numpy
    python3 make_quant_fixture.py
"""

import pathlib

import gguf
import numpy as np

# Where a block of each encoding holds its fp16 scales: they must be finite, everything else may be
# any bits.
HALF_OFFSETS = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}
ELEMENTS = 1024


def main() -> None:
    folder = pathlib.Path(__file__).parent
    rng = np.random.default_rng(20240607)
    for name, offsets in HALF_OFFSETS.items():
        qtype = gguf.GGMLQuantizationType[name]
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[qtype]
        blocks = rng.integers(0, 256, (ELEMENTS // block_size, block_bytes), dtype=np.uint8)
        for offset in offsets:
            # Exponents below 31: normal, subnormal, zero, of both signs.
            halves = rng.integers(0, 31 << 10, len(blocks), dtype=np.uint16)
            halves[0] &= 0x03FF
            halves |= rng.integers(0, 2, len(blocks), dtype=np.uint16) << 15
            blocks[:, offset : offset + 2] = halves.view(np.uint8).reshape(-1, 2)
        expected = gguf.dequantize(blocks, qtype).astype("<f4")
        assert np.isfinite(expected).all()
        (folder / f"{name}.blocks").write_bytes(blocks.tobytes())
        (folder / f"{name}.f32").write_bytes(expected.tobytes())


if __name__ == "__main__":
    main()
