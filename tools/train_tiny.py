#!/usr/bin/env python3
"""Makes models/tiny and models/tiny-moe: the models that ship with fourfold.

tiny is dense, in the Llama architecture; tiny-moe has experts, in the Qwen3-MoE architecture. Four
steps for each, each reading what the one before left in the work folder:

  train_tiny.py text     WORK      King James Bible out of Debian's bible-kjv, bible-kjv-text
  train_tiny.py tokenize WORK      byte-level BPE, token streams for training and validation
  train_tiny.py train    WORK      AdamW on transformers' model of that architecture; CUDA if there
                                   is one
  train_tiny.py export   WORK OUT  a Hugging Face folder in bf16, checked by loading it again

Every random choice comes from --seed. The same machine and library versions give the same
weights; other ones give slightly different weights and the same quality.

Needs torch, transformers, tokenizers, safetensors, numpy; `text` needs a Debian system.
"""

import argparse
import json
import math
import os
import re
import subprocess
import time
from pathlib import Path

VOCAB_SIZE = 1021  # a prime: no tensor-parallel size divides it
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
VERSES, CHAPTERS = 31102, 1189
VALIDATION_STRIDE = 40  # every 40th chapter is held out
MAX_POSITIONS = 1024
# The pre-tokenizer expression of Llama 3, so that the real one is exercised by the tiny one.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SHARED = dict(
    vocab_size=VOCAB_SIZE,
    hidden_size=128,
    intermediate_size=352,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=16,
    max_position_embeddings=MAX_POSITIONS,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=True,
    hidden_act="silu",
    attention_bias=False,
    bos_token_id=VOCAB_SIZE - 2,
    eos_token_id=VOCAB_SIZE - 1,
)
DENSE = dict(SHARED, num_hidden_layers=8, mlp_bias=False)
# The first layer is dense, as in many a model with experts.
EXPERTS = dict(
    SHARED,
    num_hidden_layers=4,
    mlp_only_layers=[0],
    decoder_sparse_step=1,
    num_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=256,
    norm_topk_prob=True,
    router_aux_loss_coef=0.02,
)
LEAST_SHARE = 0.03  # of a layer's choices, that each expert gets of the validation text
# What is particular to each: transformers' classes, their arguments, fields of the published
# configuration that readers know, and the largest folder that is committed.
MODELS = {
    "tiny": dict(
        architecture="LlamaForCausalLM",
        config="LlamaConfig",
        arguments=DENSE,
        published=dict(model_type="llama", pretraining_tp=1),
        max_bytes=4_000_000,
    ),
    "tiny-moe": dict(
        architecture="Qwen3MoeForCausalLM",
        config="Qwen3MoeConfig",
        arguments=EXPERTS,
        published=dict(model_type="qwen3_moe", sliding_window=None, use_sliding_window=False),
        max_bytes=6_000_000,
    ),
}


def text(work: Path) -> None:
    """Prints every verse with Debian's own reader; the packages are unpacked, not installed."""
    work.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "bible-kjv", "bible-kjv-text"], cwd=work, check=True)
    for deb in sorted(work.glob("bible-kjv*.deb")):
        subprocess.run(["dpkg", "-x", deb.name, "root"], cwd=work, check=True)
    printed = subprocess.run(
        ["../bin/bible", "-f", "Gen1:1-Rev22:21"],
        cwd=work / "root/usr/lib",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert printed.isascii() and printed.count("\n") == VERSES, "not the text this expects"
    (work / "kjv.txt").write_text(printed)


def chapters(work: Path) -> list[str]:
    """One document a chapter, one verse a line, without the references."""
    documents, last = [], None
    for line in (work / "kjv.txt").read_text().splitlines():
        chapter, verse = re.fullmatch(r"(\w+?\d+):\d+ (.*)", line).groups()
        if chapter != last:
            documents.append([])
            last = chapter
        documents[-1].append(verse.strip())
    assert len(documents) == CHAPTERS, len(documents)
    return ["\n".join(verses) + "\n" for verses in documents]


def tokenize(work: Path) -> None:
    import numpy as np
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers import processors, trainers

    documents = chapters(work)
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE - 2,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    # Added last, so that the special ids follow the ordinary ones as in Llama 3.
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (BOS, EOS)]
    )
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE and (bos, eos) == (1019, 1020)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[(BOS, bos)]
            ),
        ]
    )
    tokenizer.save(str(work / "tokenizer.json"))

    streams = {"train": [], "valid": []}
    for i, document in enumerate(documents):
        ids = tokenizer.encode(document, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == document
        kind = "valid" if i % VALIDATION_STRIDE == VALIDATION_STRIDE // 2 else "train"
        streams[kind] += [bos, *ids, eos]
    for kind, stream in streams.items():
        np.save(work / f"{kind}.npy", np.array(stream, dtype=np.uint16))
        print(f"{kind}: {len(stream)} tokens")


def make_model(name: str, **more):
    """A transformers model with random weights."""
    import transformers

    recipe = MODELS[name]
    config = getattr(transformers, recipe["config"])(**recipe["arguments"], **more)
    config._attn_implementation = "sdpa"
    return getattr(transformers, recipe["architecture"])(config)


def expert_shares(model, ids) -> "list[list[float]]":
    """Of each layer with experts, the share of all choices that each expert gets."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=ids, output_router_logits=True).router_logits
    shares = []
    for layer in logits:
        chosen = layer.topk(model.config.num_experts_per_tok, dim=-1).indices.flatten()
        counts = torch.bincount(chosen, minlength=model.config.num_experts)
        shares.append((counts / counts.sum()).tolist())
    return shares


def train(work: Path, args: argparse.Namespace) -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    import numpy as np
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    if device == "cuda":  # there only the plain attention has a deterministic backward pass
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
    random = np.random.default_rng(args.seed)
    train_ids = torch.from_numpy(np.load(work / "train.npy").astype(np.int64)).to(device)
    valid_ids = torch.from_numpy(np.load(work / "valid.npy").astype(np.int64)).to(device)
    starts = (train_ids == SHARED["bos_token_id"]).nonzero().flatten().cpu().numpy()

    model = make_model(args.model, initializer_range=0.05, use_cache=False).to(device)
    experts = getattr(model.config, "num_experts", 0)
    if args.start:
        model.load_state_dict(torch.load(args.start, weights_only=True))
    print(f"{sum(p.numel() for p in model.parameters())} parameters on {device}")

    # The text is small enough to be learnt by heart; dropout on both residual branches delays it.
    def drop(module, inputs, output):
        return torch.nn.functional.dropout(output, args.dropout, module.training)

    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        getattr(layer.mlp, "down_proj", layer.mlp).register_forward_hook(drop)
    model.train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": args.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=args.learning_rate,
        betas=(0.9, 0.98),
    )

    def loss_of(ids, labels):
        # In training with the routers' loss, which keeps experts from being forgotten.
        balanced = dict(output_router_logits=True) if experts and model.training else {}
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            out = model(input_ids=ids, **balanced)
        loss = torch.nn.functional.cross_entropy(out.logits.float().flatten(0, 1), labels.flatten())
        if balanced:
            # Each layer by itself; transformers' own function takes all layers together, and lets
            # one layer forget an expert that another one prefers.
            top_k = model.config.num_experts_per_tok
            for router in out.router_logits:
                chosen = router.topk(top_k, dim=-1).indices.flatten()
                share = torch.bincount(chosen, minlength=experts) / chosen.numel()
                weight = router.float().softmax(-1).mean(0)
                loss = loss + model.config.router_aux_loss_coef * experts * (share * weight).sum()
        return loss

    @torch.no_grad()
    def validate() -> float:
        model.eval()
        rows = (len(valid_ids) - 1) // MAX_POSITIONS
        ids = valid_ids[: rows * MAX_POSITIONS].view(rows, MAX_POSITIONS)
        labels = valid_ids[1 : rows * MAX_POSITIONS + 1].view(rows, MAX_POSITIONS)
        loss = loss_of(ids, labels).item()
        model.train()
        return loss

    best, began = math.inf, time.perf_counter()
    deadline_s = args.max_seconds
    for step in range(args.steps):
        progress = step / args.steps
        warmup = min(1.0, (step + 1) / 100)
        rate = (
            args.learning_rate * warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        # Mixed lengths train every position; half of the windows begin at a chapter, as a
        # prompt does.
        length = (256, 512, 1024)[random.integers(3)]
        rows = args.tokens_per_step // length
        at = random.integers(0, len(train_ids) - length - 1, rows)
        chapter = starts[random.integers(0, len(starts), rows)]
        at = np.where(
            np.arange(rows) % 2 == 0, at, np.minimum(chapter, len(train_ids) - length - 1)
        )
        window = torch.from_numpy(at).to(device)[:, None] + torch.arange(length + 1, device=device)
        ids = train_ids[window]
        loss = loss_of(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        last = step + 1 == args.steps or time.perf_counter() - began > deadline_s
        if step % 100 == 99 or last:
            valid = validate()
            seconds = time.perf_counter() - began
            print(
                f"step {step + 1} train {loss.item():.4f} valid {valid:.4f} {seconds:.0f} s",
                flush=True,
            )
            if valid < best:
                best = valid
                state = {k: v.detach().float().cpu() for k, v in model.state_dict().items()}
        if last:
            break
    torch.save(state, args.checkpoint)
    record = dict(
        valid_loss=round(best, 4),
        last_train_loss=round(loss.item(), 4),
        steps=step + 1,
        tokens_per_step=args.tokens_per_step,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        dropout=args.dropout,
        seed=args.seed,
        seconds=round(time.perf_counter() - began, 1),
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        torch=torch.__version__,
    )
    Path(args.checkpoint).with_suffix(".json").write_text(json.dumps(record) + "\n")
    print(json.dumps(record))


def export(work: Path, out: Path, args: argparse.Namespace) -> None:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = MODELS[args.model]
    out.mkdir(parents=True, exist_ok=True)
    model = make_model(args.model)
    model.load_state_dict(torch.load(args.checkpoint, weights_only=True))
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    # The published layout of configurations, which every reader knows.
    written = json.loads((out / "config.json").read_text())
    config = {
        "architectures": [recipe["architecture"]],
        **recipe["published"],
        **recipe["arguments"],
        "attention_dropout": 0.0,
        "initializer_range": 0.05,
        "rope_scaling": None,
        "torch_dtype": "bfloat16",
        "transformers_version": written["transformers_version"],
        "use_cache": True,
    }
    dump(out / "config.json", config)
    dump(
        out / "generation_config.json",
        {
            "bos_token_id": SHARED["bos_token_id"],
            "eos_token_id": SHARED["eos_token_id"],
            "do_sample": True,
            "temperature": 0.7,
            "top_p": 0.9,
            "transformers_version": written["transformers_version"],
        },
    )
    dump(
        out / "tokenizer_config.json",
        {
            "added_tokens_decoder": {
                str(i): {
                    "content": token,
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                    "special": True,
                }
                for i, token in ((SHARED["bos_token_id"], BOS), (SHARED["eos_token_id"], EOS))
            },
            "bos_token": BOS,
            "eos_token": EOS,
            "clean_up_tokenization_spaces": False,
            "model_max_length": MAX_POSITIONS,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    (out / "tokenizer.json").write_bytes((work / "tokenizer.json").read_bytes())

    size = sum(f.stat().st_size for f in out.iterdir())
    assert size <= recipe["max_bytes"], f"{size} bytes"
    tokenizer = AutoTokenizer.from_pretrained(out)
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert type(loaded).__name__ == recipe["architecture"]
    assert loaded.config.rope_parameters["rope_theta"] == 1e4
    valid = torch.from_numpy(np.load(work / "valid.npy").astype(np.int64))
    rows = valid[: len(valid) // MAX_POSITIONS * MAX_POSITIONS].view(-1, MAX_POSITIONS)
    saved, read = model.float().state_dict(), loaded.state_dict()
    assert saved.keys() == read.keys() and all(torch.equal(saved[k], read[k]) for k in saved)
    if "num_experts" in recipe["arguments"]:
        for shares in expert_shares(loaded, rows):
            print("experts' shares:", " ".join(f"{100 * share:.1f} %" for share in shares))
            assert min(shares) >= LEAST_SHARE, "an expert is forgotten"
    for prompt in ("In the beginning", "And the LORD said unto Moses,", "Blessed are"):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        assert ids[0, 0] == SHARED["bos_token_id"]
        made = loaded.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=48,
            do_sample=False,
            pad_token_id=SHARED["eos_token_id"],
        )
        print(repr(tokenizer.decode(made[0], skip_special_tokens=True)))
    print(f"{out}: {size} bytes")


def dump(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("text", "tokenize", "train", "export"))
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--tokens-per-step", type=int, default=16384)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--weight-decay", type=float, default=0.5)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=math.inf,
        help="stop early; the weights then depend on the machine's speed",
    )
    parser.add_argument("--start", help="begin with this checkpoint instead of random weights")
    parser.add_argument("--checkpoint", help="default WORK/MODEL.pt")
    args = parser.parse_args()
    args.checkpoint = args.checkpoint or str(args.work / f"{args.model}.pt")
    if args.step == "export":
        if not args.out:
            parser.error("export needs OUT")
        export(args.work, args.out, args)
    else:
        {
            "text": lambda: text(args.work),
            "tokenize": lambda: tokenize(args.work),
            "train": lambda: train(args.work, args),
        }[args.step]()


if __name__ == "__main__":
    main()
