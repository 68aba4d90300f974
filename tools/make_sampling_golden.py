#!/usr/bin/env python3
"""Writes tests/golden/sampling.json: what every sampling parameter makes of a row of logits.

    tools/make_sampling_golden.py tests/golden/sampling.json

Oracles, in float64: transformers' logits processors for repetition penalty, minimum length,
temperature, min-p, top-k and top-p; for logit bias, presence and frequency penalty the formulas of
vLLM (apply_penalties: l -= frequency * count; l -= presence * (count > 0), counts over the output).
They run in the order of vLLM's sampler: bias, minimum length, repetition, frequency, presence;
temperature, min-p, top-k, top-p. A case whose answer a rounding could change is drawn again.
"""

import json
import sys

import numpy as np
import torch
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCAB = 47
MARGIN = 1e-4


def adjusted_logits(case):
    params = case["params"]
    scores = torch.tensor([case["logits"]], dtype=torch.float64)
    ids = torch.tensor([case["prompt"] + case["output"]], dtype=torch.long)
    for token, bias in params["logit_bias"]:
        scores[0, token] += bias
    if params["min_tokens"] > 0:
        scores = MinNewTokensLengthLogitsProcessor(
            len(case["prompt"]), params["min_tokens"], case["stop_tokens"]
        )(ids, scores)
    if params["repetition_penalty"] != 1:
        scores = RepetitionPenaltyLogitsProcessor(params["repetition_penalty"])(ids, scores)
    counts = torch.bincount(torch.tensor(case["output"], dtype=torch.long), minlength=VOCAB)
    scores = scores - params["frequency_penalty"] * counts
    return scores - params["presence_penalty"] * (counts > 0)


def cut(scores, params):
    """Probabilities, and the least distance of any decision to its threshold."""
    margin = 1.0
    scores = TemperatureLogitsWarper(params["temperature"])(None, scores)
    if params["min_p"] > 0:
        share = torch.softmax(scores, -1)[0]
        margin = min(margin, (share / share.max() - params["min_p"]).abs().min().item())
        scores = MinPLogitsWarper(params["min_p"])(None, scores)
    if params["top_k"] > 0:
        scores = TopKLogitsWarper(params["top_k"])(None, scores)
    if params["top_p"] < 1:
        falling = torch.sort(torch.softmax(scores, -1)[0], descending=True).values
        margin = min(margin, (torch.cumsum(falling, 0) - params["top_p"]).abs().min().item())
        scores = TopPLogitsWarper(params["top_p"])(None, scores)
    return torch.softmax(scores, -1)[0], margin


def draw_case(rng):
    maybe = lambda value, off: value if rng.random() < 0.5 else off
    tokens = lambda count: [int(t) for t in rng.integers(0, VOCAB, count)]
    number = lambda low, high: float(np.float32(rng.uniform(low, high)))
    bias = sorted(set(tokens(4)))
    params = {
        "temperature": number(0.3, 2),
        "top_k": maybe(int(rng.integers(1, 40)), 0),
        "top_p": maybe(number(0.2, 0.99), 1.0),
        "min_p": maybe(number(0.01, 0.4), 0.0),
        "repetition_penalty": maybe(number(0.5, 2), 1.0),
        "presence_penalty": maybe(number(-2, 2), 0.0),
        "frequency_penalty": maybe(number(-2, 2), 0.0),
        "logit_bias": maybe([[token, number(-5, 5)] for token in bias], []),
        "min_tokens": maybe(int(rng.integers(1, 20)), 0),
    }
    case = {
        "logits": [round(x * 64) / 64 for x in rng.normal(0, 2, VOCAB)],  # exact in fp32
        "prompt": tokens(int(rng.integers(1, 12))),
        "output": [t % 9 for t in tokens(int(rng.integers(0, 16)))],  # so that they repeat
        "stop_tokens": sorted({9 + t % (VOCAB - 9) for t in tokens(2)}),  # none in the output
        "params": params,
    }
    scores = adjusted_logits(case)
    best = torch.sort(scores[0], descending=True).values
    probabilities, margin = cut(scores, params)
    if min(margin, (best[0] - best[1]).item()) < MARGIN:
        return None
    case["greedy"] = int(scores[0].argmax())
    case["probabilities"] = [float(f"{p:.8g}") for p in probabilities]
    return case


def main():
    rng = np.random.default_rng(20)
    cases = []
    while len(cases) < 60:
        case = draw_case(rng)
        if case is not None:
            cases.append(case)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
