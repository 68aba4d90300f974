#!/usr/bin/env python3
"""Makes tests/golden/gemma-270m: what others answer for the pretrained Gemma 3 270M in a GGUF file.

  make_gemma_golden.py GEMMA.gguf WORK tests/golden/gemma-270m [logits|llamacpp]

`logits`: the weights dequantised by the `gguf` package run through transformers' Gemma3ForCausalLM
in fp32. `llamacpp`: greedy tokens of llama.cpp (PyPI `xllamacpp`, prebuilt) with their margins,
from two of its kernel sets, checked against transformers' own up to the first narrow margin. The
GGUF file comes from tools/fetch_gemma.sh, WORK from `train_tiny.py text` (the long prompt is
Genesis 1). Formats: tests/golden/README.md.

Needs gguf, torch, transformers, safetensors, sentencepiece; `llamacpp` also xllamacpp.
"""

import argparse
import hashlib
import json
import re
import urllib.request
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from make_tokenizer_golden import gguf_processor
from train_tiny import chapters

SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PROMPTS = (
    "The capital of France is",
    'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n',
    "Once upon a time, in a small village by the sea, there lived",
    "1, 2, 3, 4, 5, 6, 7, 8,",
    "Monday, Tuesday, Wednesday, Thursday,",
)
LONG_TOKENS = 700  # beyond the sliding window of 512
GREEDY_TOKENS = 48
NARROW = 0.3  # nats: llama.cpp quantises activations, so a narrower decision may fall otherwise
STRIDE = 64
TENSORS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hub_name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    layer, kind = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name).groups()
    return f"model.layers.{layer}.{TENSORS[kind]}.weight"


def load(path: Path, round_to_bf16: bool) -> Gemma3ForCausalLM:
    """The file's model in fp32; on request with every matrix rounded to bf16, the norms kept."""
    reader = GGUFReader(path)
    value = lambda key: reader.fields["gemma3." + key].contents()
    assert reader.fields["general.architecture"].contents() == "gemma3"
    layers = value("block_count")
    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
    config = Gemma3TextConfig(
        vocab_size=vocabulary,
        hidden_size=value("embedding_length"),
        intermediate_size=value("feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=value("attention.head_count"),
        num_key_value_heads=value("attention.head_count_kv"),
        head_dim=value("attention.key_length"),
        query_pre_attn_scalar=value("attention.key_length"),
        rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        max_position_embeddings=value("context_length"),
        sliding_window=value("attention.sliding_window"),
        # Not in the file: of six layers the last is global, the others turn at base 10,000.
        layer_types=[
            "full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)
        ],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": value("rope.freq_base")},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        hidden_activation="gelu_pytorch_tanh",
        tie_word_embeddings=True,
    )
    config._attn_implementation = "eager"
    state = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        assert weight.dtype == torch.float32
        if weight.dim() == 1:
            weight -= 1.0  # the file's norms hold 1 + w
        else:
            assert list(weight.shape) == list(tensor.shape)[::-1]
            if round_to_bf16:
                weight = weight.to(torch.bfloat16).float()
        state[hub_name(tensor.name)] = weight
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = Gemma3ForCausalLM(config)
    model.load_state_dict(state, strict=True)
    return model.eval()


@torch.no_grad()
def last_logits(model, ids: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1]


@torch.no_grad()
def greedy(model, prompt: list[int]) -> list[int]:
    ids, cache, fed = [], None, torch.tensor([prompt])
    for _ in range(GREEDY_TOKENS):
        out = model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        ids.append(out.logits[0, -1].argmax().item())
        fed = torch.tensor([ids[-1:]])
    return ids


def make_logits(path: Path, prompts: list[list[int]], out: Path) -> None:
    tensors = {}
    for suffix, rounded in (("", False), ("_bf16", True)):
        model = load(path, rounded)
        for i, prompt in enumerate(prompts):
            logits = last_logits(model, prompt)
            best = logits.topk(16)
            tensors[f"prompt_{i}"] = np.array(prompt, dtype=np.int32)
            tensors[f"logits_{i}{suffix}"] = logits[::STRIDE].contiguous().numpy()
            tensors[f"logsumexp_{i}{suffix}"] = logits.double().logsumexp(0).float().view(1).numpy()
            tensors[f"top_ids_{i}{suffix}"] = best.indices.int().numpy()
            tensors[f"top_logits_{i}{suffix}"] = best.values.numpy()
            if rounded:
                exact = torch.from_numpy(tensors[f"logits_{i}"])
                error = ((logits[::STRIDE] - exact) ** 2).sum() / (exact**2).sum()
                print(
                    f"prompt {i}: {len(prompt)} tokens, best id {best.indices[0].item()}, "
                    f"NMSE of bf16 weights {error:.2e}"
                )
            elif len(prompt) > 512:
                window = model.config.sliding_window
                model.config.sliding_window = 2 * LONG_TOKENS
                wide = last_logits(model, prompt)
                model.config.sliding_window = window
                assert (wide - logits).abs().max() > 1e-2, "the window changes nothing"
    save_file(tensors, out / "golden.safetensors")
    (out / "golden.safetensors").chmod(0o644)


def llamacpp_runs(path: Path, prompts: list[list[int]], repack: bool) -> list[dict]:
    """llama.cpp's greedy answers, with its weights rearranged for speed (its default) or not."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup = 2048, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    params.no_extra_bufts = not repack
    server = xllamacpp.Server(params)

    def post(endpoint: str, body: dict) -> dict:
        request = urllib.request.Request(
            server.listening_address + endpoint,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        return json.load(urllib.request.urlopen(request))

    runs = []
    for text, prompt in zip(PROMPTS, prompts):
        assert post("/tokenize", {"content": text, "add_special": True})["tokens"] == prompt
        answer = post(
            "/completion",
            {
                "prompt": prompt,
                "n_predict": GREEDY_TOKENS,
                "temperature": 0,
                "top_k": 1,
                "n_probs": 2,
                "cache_prompt": False,
                "return_tokens": True,
            },
        )
        steps = answer["completion_probabilities"]
        top = [s["top_logprobs"] for s in steps]
        assert answer["tokens"] == [s["id"] for s in steps] == [t[0]["id"] for t in top]
        assert len(steps) == GREEDY_TOKENS
        runs.append(
            {
                "text": answer["content"],
                "token_ids": answer["tokens"],
                "margins": [round(t[0]["logprob"] - t[1]["logprob"], 4) for t in top],
            }
        )
    return runs


def make_llamacpp(path: Path, prompts: list[list[int]], out: Path) -> None:
    import xllamacpp

    model = load(path, False)
    layouts = [llamacpp_runs(path, prompts, repack) for repack in (True, False)]
    runs = []
    for text, prompt, packed, plain in zip(PROMPTS, prompts, *layouts):
        decided = (
            a == b and min(m, n) >= NARROW
            for a, b, m, n in zip(
                packed["token_ids"], plain["token_ids"], packed["margins"], plain["margins"]
            )
        )
        sure = next((i for i, d in enumerate(decided) if not d), GREEDY_TOKENS)
        equal = next(
            (
                i
                for i, (a, b) in enumerate(zip(packed["token_ids"], greedy(model, prompt)))
                if a != b
            ),
            GREEDY_TOKENS,
        )
        print(f"{text!r}: {packed['text']!r}; {sure} sure tokens, {equal} equal to transformers'")
        assert equal >= sure
        runs.append(
            {
                "prompt": text,
                "prompt_ids": prompt,
                **packed,
                "sure_tokens": sure,
                "not_repacked": plain,
            }
        )
    features = [
        f
        for f in xllamacpp.get_system_info().split()
        if f in ("AVX2", "AVX512", "AVX512_BF16", "REPACK", "LLAMAFILE", "FMA")
    ]
    record = {
        "model": path.name,
        "sha256": SHA256,
        "engine": f"llama.cpp in xllamacpp {xllamacpp.__version__} (PyPI, prebuilt CPU wheel: "
        f"{' '.join(features)}), 2 threads",
        "request": "POST /completion with prompt = prompt_ids, n_predict 48, temperature 0, "
        "top_k 1, n_probs 2, cache_prompt false",
        "margins": "log-probability of the token minus that of the second best, at each position",
        "not_repacked": "the same with no_extra_bufts: other kernels, which round activations "
        "otherwise",
        "sure_tokens": "positions before the first where the two differ or a margin of either is "
        f"below {NARROW}; compare up to there",
        "made_by": "tools/make_gemma_golden.py",
        "runs": runs,
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[-\d.,\s]+\]", lambda m: " ".join(m[0].split()), text)
    (out / "llamacpp.json").write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gguf", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("what", nargs="*", default=["logits", "llamacpp"])
    args = parser.parse_args()
    assert hashlib.sha256(args.gguf.read_bytes()).hexdigest() == SHA256, "another file"
    args.out.mkdir(parents=True, exist_ok=True)
    processor = gguf_processor(args.gguf)
    encode = lambda text: [processor.bos_id(), *processor.encode(text)]
    if "logits" in args.what:
        long = encode(chapters(args.work)[0])[:LONG_TOKENS]
        assert len(long) == LONG_TOKENS
        make_logits(args.gguf, [encode(PROMPTS[0]), encode(PROMPTS[1]), long], args.out)
    if "llamacpp" in args.what:
        make_llamacpp(args.gguf, [encode(text) for text in PROMPTS], args.out)


if __name__ == "__main__":
    main()
