#!/usr/bin/env python3
"""Makes tests/golden/llama2-gguf/model.gguf: the checkpoint of tests/golden/llama2 as GGUF.

  make_gguf_golden.py tests/golden

The weights are the same numbers, so its answers are those of llama2/golden.safetensors. Written with
the `gguf` package as llama.cpp's converter lays a Llama out: rows of query and key heads interleaved,
matrices in BF16, F16 (value and output; exact, because the values are small bf16 numbers) and F32
(norms). It has no vocabulary.

Needs gguf, numpy, torch, safetensors.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.torch import load_file

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Row i and row i + half of each head become rows 2i and 2i + 1."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path)
    golden = parser.parse_args().golden
    config = json.loads((golden / "llama2" / "config.json").read_text())
    heads = config["num_attention_heads"]
    out = golden / "llama2-gguf" / "model.gguf"
    out.parent.mkdir(exist_ok=True)

    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    for name, tensor in load_file(golden / "llama2" / "model.safetensors").items():
        weight = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            weight = interleave(weight, heads)
        if weight.ndim == 1:
            writer.add_tensor(gguf_name(name), weight)
        elif "v_proj" in name or "o_proj" in name:
            half = weight.astype(np.float16)
            assert (half.astype(np.float32) == weight).mean() > 0.99
            writer.add_tensor(gguf_name(name), half)
        else:
            data = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.BF16)
            writer.add_tensor(gguf_name(name), data, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
