#!/usr/bin/env python3
"""Makes tests/golden/*-gguf/model.gguf: checkpoints of tests/golden as GGUF.

  make_gguf_golden.py tests/golden [llama2 mixtral deepseek-moe]

The weights are the same numbers, so the answers are those of the checkpoint's golden.safetensors.
Written with the `gguf` package as llama.cpp's converter lays these out: rows of query and key heads
interleaved, the experts of a layer stacked in one tensor, matrices in BF16, F16 (value and output;
exact, because the values are small bf16 numbers) and F32 (norms and routers). They have no
vocabulary.

Needs gguf, numpy, torch, safetensors.
"""

import argparse
import json
import re
from pathlib import Path

import gguf
import numpy as np
from safetensors.torch import load_file

MODELS = {"llama2": "llama", "mixtral": "llama", "deepseek-moe": "deepseek"}  # and architectures

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
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.experts.w1": "ffn_gate_exps",
    "block_sparse_moe.experts.w3": "ffn_up_exps",
    "block_sparse_moe.experts.w2": "ffn_down_exps",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
EXPERT = re.compile(r"\.experts\.(\d+)\.")


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


def stack_experts(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One [experts, rows, columns] for each matrix that every expert of a layer has."""
    out = {}
    experts = {}
    for name, weight in tensors.items():
        match = EXPERT.search(name)
        if match:
            matrices = experts.setdefault(EXPERT.sub(".experts.", name), {})
            matrices[int(match[1])] = weight
        else:
            out[name] = weight
    for name, matrices in experts.items():
        out[name] = np.stack([matrices[e] for e in range(len(matrices))])
    return out


def add_metadata(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if "num_experts_per_tok" in config:
        writer.add_expert_count(config.get("num_local_experts") or config["n_routed_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if "n_shared_experts" in config:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
        writer.add_expert_shared_count(config["n_shared_experts"])
        writer.add_expert_weights_scale(config["routed_scaling_factor"])
        writer.add_leading_dense_block_count(config["first_k_dense_replace"])


def convert(source: Path, out: Path, architecture: str) -> None:
    config = json.loads((source / "config.json").read_text())
    out.parent.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(out, architecture)
    add_metadata(writer, config)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    tensors = {k: v.float().numpy() for k, v in load_file(source / "model.safetensors").items()}
    for name, weight in stack_experts(tensors).items():
        for kind, count in heads.items():
            if kind in name:
                weight = interleave(weight, count)
        stored = gguf_name(name)
        if weight.ndim == 1 or "ffn_gate_inp" in stored:
            writer.add_tensor(stored, weight)
        elif "v_proj" in name or "o_proj" in name:
            half = weight.astype(np.float16)
            assert (half.astype(np.float32) == weight).mean() > 0.99
            writer.add_tensor(stored, half)
        else:
            data = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.BF16)
            writer.add_tensor(stored, data, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{out}: {out.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path)
    parser.add_argument("names", nargs="*", help="default: all")
    args = parser.parse_args()
    for name in args.names or MODELS:
        convert(args.golden / name, args.golden / f"{name}-gguf" / "model.gguf", MODELS[name])


if __name__ == "__main__":
    main()
