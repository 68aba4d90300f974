#!/usr/bin/env python3
"""Writes tests/report/eight_schemes.json: a made-up run of `fourfold verify` in the words of
docs/verify-json.md, for tests of the report. Eight schemes are timed at four loads; one more
failed, two are not legal; one point is saturated, one is invalid; every figure that may be null is
null somewhere. Rows of each expert are there where the page shows them, at the last load of the first
scheme. The figures come from a simple model with a fixed seed, not from a measurement."""

import json
import math
import pathlib
import random
import statistics

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/report/eight_schemes.json"
NORMAL = statistics.NormalDist()
POINTS = (1, 8, 64, 256)
INPUT, OUTPUT, REPEATS = 512, 128, 5
LAYERS, EXPERTS, TOP_K = 48, 128, 8
#         scheme         tp pp dp ep
TIMED = (("tp1",         1, 1, 1, 1), ("tp8",         8, 1, 1, 1), ("tp4pp2",      4, 2, 1, 1),
         ("tp2pp2dp2",   2, 2, 2, 1), ("tp4dp2",      4, 1, 2, 1), ("dp8",         1, 1, 8, 1),
         ("tp8ep8",      8, 1, 1, 8), ("pp8",         1, 8, 1, 1))
GIB = 1 << 30
rng = random.Random(4)
shape = random.Random(5)  # of the experts' rows


def short(value, digits=17):
    return None if value is None else float(f"{value:.{digits}g}")


def summary(mean, spread=0.1, count=1000, ci=0.015):
    """Mean and percentiles of a log-normal quantity, null where too few values stand behind."""
    if mean is None:
        return dict.fromkeys(("mean", "p50", "p90", "p99", "ci95"))
    mean *= 1 + rng.gauss(0, 0.004)

    def quantile(p):
        if count < 100 / (100 - p):
            return None
        return short(mean * math.exp(spread * NORMAL.inv_cdf(p / 100) - spread * spread / 2))

    return {"mean": short(mean), "p50": quantile(50), "p90": quantile(90), "p99": quantile(99),
            "ci95": short(mean * ci * rng.uniform(0.4, 1.6))}


def quantiles(mean, spread):
    """101 quantiles, 0 to 100 %, with a heavier right end as latencies have it."""
    out = []
    for p in range(101):
        z = NORMAL.inv_cdf(min(max(p / 100, 0.004), 0.996))
        out.append(short(mean * math.exp(spread * z + 0.12 * spread * max(z, 0) ** 2), 5))
    return sorted(out)


def timeline(duration, concurrency, kv_peak, dp, queued):
    out = []
    for i in range(200):
        t = i / 199
        level = min(1, t / 0.06) * (1 if t < 0.9 else max(0, (1 - t) / 0.1))
        running = round(concurrency * level * (1 - queued) + rng.choice((0, 0, 0, -1)) * (level > 0.5))
        waiting = round(concurrency * queued * level * rng.uniform(0.8, 1.2))
        wave = 0.86 + 0.14 * math.sin(t * 40 + dp)
        out.append([short(duration * t, 4), short(kv_peak * level * wave, 3), max(0, running), waiting])
    return out


def step_share(tp, pp, dp, ep, concurrency, busy):
    tp_move = 0 if tp == 1 else 0.05 * math.log2(tp) * (1.4 if concurrency == 1 else 1)
    pp_wait = 0 if pp == 1 else (1 - 1 / pp) * (0.8 if concurrency == 1 else 0.15)
    shares = {"operators": busy, "tp_move": tp_move, "tp_wait": 0.45 * tp_move,
              "pp_move": 0 if pp == 1 else 0.012 * math.log2(pp), "pp_wait": pp_wait,
              "ep_move": 0 if ep == 1 else 0.09, "ep_wait": 0 if ep == 1 else 0.05}
    total = sum(shares.values())
    scale = min(1, 0.94 / total)
    shares = {k: round(v * scale, 5) for k, v in shares.items()}
    shares["other"] = round(1 - sum(shares.values()), 5)
    return shares


def layers_of_experts(tokens):
    """Rows of each expert with a spread like that of a trained router."""
    layers = []
    for layer in range(LAYERS):
        weights = [math.exp(shape.gauss(0, 0.6)) for _ in range(EXPERTS)]
        layers.append({"layer": layer, "rows": [round(tokens * TOP_K * w / sum(weights)) for w in weights],
                       "imbalance": 1.0, "distinct_per_step": short(shape.uniform(118, 126), 5)})
    return layers


def experts(ep, per_replica, shares, layers):
    rows = per_replica * TOP_K
    wait = shares["ep_wait"]
    return {"distinct_per_step": short(EXPERTS / ep * (1 - (1 - 1 / EXPERTS) ** rows), 4),
            "zero_row_share": 0.0,
            "binds": "nothing: no rows travel" if ep == 1 else
            f"not the exchange ({100 * (wait + shares['ep_move']):.0f} % of the time)", "layers": layers}


def load_point(name, tp, pp, dp, ep, concurrency):
    devices = tp * pp * dp
    per_replica = max(1, concurrency / dp)
    lone = concurrency == 1
    read_ms = 4.1 * (1.25 if ep > 1 and lone else 1)
    rows_ms = 0.13 * max(1, per_replica / pp) * (0.9 if ep > 1 and not lone else 1)
    tpot = ((read_ms + rows_ms) / tp * (1 + 0.06 * math.log2(tp)) * (1 + 0.06 * math.log2(pp))
            + math.log2(tp) * (0.12 + 0.006 * per_replica / pp))
    queue = 1 + per_replica / (24 * (tp * pp) ** 0.7)
    ttft = 31 * queue ** 1.5 / tp ** 0.78 * (1 + 0.04 * (pp - 1)) + 4
    e2e = ttft + tpot * (OUTPUT - 1)
    requests_s = concurrency / e2e * 1000
    saturated = name == "tp1" and concurrency == 256
    valid = not (name == "pp8" and concurrency == 256)
    count = REPEATS * max(8, 2 * concurrency)
    busy = min(0.93, 0.9 / (1 + 0.08 * math.log2(tp) + (0.55 if concurrency == 1 else 0.08) * (pp - 1) ** 0.5))
    if dp > concurrency:
        busy *= concurrency / dp
    shares = step_share(tp, pp, dp, ep, concurrency, busy)
    duration = count / REPEATS / requests_s

    def latency(mean, spread, n):
        return summary(None if saturated else mean, spread, n)

    def axis(key, call_bytes, calls):
        move, wait = shares[f"{key}_move"], shares[f"{key}_wait"]
        on = move > 0
        return {"seconds": short((move + wait) * duration), "wait_seconds": short(wait * duration),
                "bytes": calls * call_bytes if on else 0, "calls": calls if on else 0}

    steps = int(duration * 1000 / tpot)
    output_tok_s = requests_s * OUTPUT
    goodput = None if concurrency == 1 else requests_s * (0.98 if ttft < 50 and tpot < 15 else 0.35)
    return {
        "point": f"c{concurrency}", "concurrency": concurrency, "rate_rps": None,
        "requests": count, "failed_requests": 2 if name == "pp8" and concurrency == 8 else 0,
        "valid": valid,
        "invalid_reason": "" if valid else
        "requests were sent 38.2 ms late at the 99th percentile; 10 ms is the bound",
        "saturated": saturated,
        "send_lateness_ms": summary(0.21 if valid else 17.0, 0.4, count),
        "metrics": {
            "ttft_ms": latency(ttft, 0.22, count), "tpot_ms": latency(tpot, 0.06, count),
            "itl_ms": latency(tpot, 0.2, count * OUTPUT), "e2e_ms": latency(e2e, 0.08, count),
            "output_tok_s": summary(output_tok_s, 0.02, REPEATS),
            "total_tok_s": summary(output_tok_s * (INPUT + OUTPUT) / OUTPUT, 0.02, REPEATS),
            "requests_s": summary(requests_s, 0.02, REPEATS),
            "goodput_rps": summary(goodput, 0.02, REPEATS),
            "output_tok_s_device": summary(output_tok_s / devices, 0.02, REPEATS),
            "output_tok_s_user": latency(1000 / tpot, 0.06, count)},
        "device_busy": shares["operators"], "mfu": short(output_tok_s / devices * 5 * 6.6e9 / 7.4e14, 4),
        "mbu": None if name == "pp8" else short(shares["operators"] * 0.92 * min(1, 24 / (per_replica + 8)), 4),
        "efficiency": {"same_load": None, "growing_load": None},
        "kv": {"hit_rate": short(0.5 - 0.05 * dp, 3), "peak_share": short(min(0.97, 0.02 + 0.012 * per_replica), 4),
               "preemptions": 7 if saturated else 0},
        "comm": {"tp": axis("tp", 2 * 2048 * concurrency, steps * 48 * 2 // pp),
                 "pp": axis("pp", 4 * 2048 * concurrency, steps),
                 "ep": axis("ep", 8 * 2048 * concurrency, steps * 48 * 2),
                 "control": {"seconds": short(0.004 * duration), "wait_seconds": 0.0,
                             "bytes": 220 * steps, "calls": steps}},
        "step_share": shares,
        "bubble_share": None if pp == 1 else round(shares["pp_wait"] * 0.9, 5),
        "expert_imbalance": 1.0 if ep == 1 else short(1.34 - 0.02 * math.log2(concurrency), 4),
        "experts": experts(ep, per_replica, shares,
                           layers_of_experts(int(requests_s * duration) * (INPUT + OUTPUT))
                           if (name, concurrency) == ("tp1", POINTS[-1]) else []),
        "distributions": {
            "ttft_ms": None if saturated else quantiles(ttft * 0.97, 0.22),
            "itl_ms": None if saturated else quantiles(tpot * 0.98, 0.2)},
        "timeline": timeline(duration, concurrency, min(0.97, 0.02 + 0.012 * per_replica), dp,
                             0.3 if saturated else 0.08 * (per_replica > 32)),
    }


def start_command(name, tp, pp, dp, ep):
    words = ["fourfold serve qwen3-30b-a3b"]
    for flag, size in (("-tp", tp), ("-pp", pp), ("-dp", dp), ("-ep", ep)):
        if size > 1:
            words.append(f"{flag} {size}")
    return " ".join(words)


def vllm_command(name, tp, pp, dp, ep):
    if ep != dp * tp and dp > 1:
        return "(vLLM has no flags for these expert shards)"
    words = ["vllm serve Qwen/Qwen3-30B-A3B"]
    for flag, size in (("--tensor-parallel-size", tp), ("--pipeline-parallel-size", pp),
                       ("--data-parallel-size", dp)):
        if size > 1:
            words.append(f"{flag} {size}")
    if ep > 1:
        words.append("--enable-expert-parallel")
    return " ".join(words)


def scheme_entry(name, tp, pp, dp, ep, legal=True, reason="", failure=""):
    weights = int(57.2 * GIB / (tp * pp * (dp if ep > tp else 1)) * (1 + 0.02 * (pp - 1)))
    kv, activations = int(5.5 * GIB), int(0.61 * GIB / tp)
    timed = legal and not failure
    differs = name == "pp8"
    return {
        "scheme": name, "tp": tp, "pp": pp, "dp": dp, "ep": ep, "etp": 0, "devices": tp * pp * dp,
        "shares_cores": False, "legal": legal, "reason": reason, "failure": failure,
        "answers": None if not timed else {
            "equal": not differs, "equal_token_share": 0.9921875 if differs else 1.0,
            "compared": 98304, "missing": 0,
            "first_difference": {"request": 3, "position": 211, "layer": 17} if differs else None},
        "fast_answers": None if not timed else {
            "equal_token_share": short(1 - 0.0007 * tp, 5), "compared_tokens": 16384,
            "max_logprob_diff": short(0.011 + 0.004 * tp, 4), "differences": tp, "near_ties": tp},
        "memory_bytes": None if not legal else {
            "weights": weights, "kv": kv, "activations": activations,
            "planned": weights + kv + activations,
            "held": int((weights + kv + activations) * (1.021 - 0.004 * pp)) if timed else None,
            "balance": short(1 - 0.021 * (pp - 1) / pp, 4)},
        "max_concurrent_requests": None if not legal else 88 * dp * tp,
        "load_s": None if not timed else short(30 / (tp * pp) + 3.1, 4),
        "peaks": {"matmul_flop_s": 7.412e14 * tp * pp * dp, "read_bytes_s": 2.87e12 * tp * pp * dp}
        if timed else None,
        "slo_rate": {"rate_rps": 18.5 * tp ** 0.9, "missed_rps": 19.3 * tp ** 0.9, "runs": 9}
        if timed and pp == 1 else None,
        "invariant_cost": None if not timed else short(1.11 + 0.01 * tp, 4),
        "start_command": start_command(name, tp, pp, dp, ep),
        "vllm_command": vllm_command(name, tp, pp, dp, ep),
        "loads": []}


def efficiencies(schemes):
    def rate(entry):
        return entry["metrics"]["output_tok_s_device"]["mean"]

    base = {entry["concurrency"]: entry for entry in schemes[0]["loads"]}
    for scheme in schemes:
        for entry in scheme["loads"]:
            smaller = entry["concurrency"] / scheme["devices"]
            entry["efficiency"] = {
                "same_load": short(rate(entry) / rate(base[entry["concurrency"]]), 4),
                "growing_load": short(rate(entry) / rate(base[smaller]), 4) if smaller in base else None}


def winners(schemes, point):
    objectives = {
        "ttft": (("ttft_ms", min, "ms"), "arithmetic (71 %)"),
        "tpot": (("tpot_ms", min, "ms"), "memory bandwidth (64 %)"),
        "throughput": (("output_tok_s", max, "output tok/s"), "memory bandwidth (58 %)"),
        "goodput": (("goodput_rps", max, "requests/s within the SLO"), "KV cache (7 preemptions, 97 % in use at the peak)")}
    out = {}
    for key, ((metric, best_of, unit), limit) in objectives.items():
        found = []
        for scheme in schemes:
            for entry in scheme["loads"]:
                value = entry["metrics"][metric]["mean"]
                if entry["point"] == point and value is not None and entry["valid"]:
                    found.append((value, scheme))
        if not found:
            continue
        value, scheme = best_of(found, key=lambda item: item[0])
        tie = [s["scheme"] for v, s in found if s is not scheme and abs(v - value) < 0.02 * value]
        out[key] = winner(scheme, tie, value, unit, limit)
    least = min(schemes, key=lambda s: s["memory_bytes"]["planned"])
    planned = least["memory_bytes"]["planned"]
    ties = [s["scheme"] for s in schemes if s is not least and s["memory_bytes"]["planned"] == planned]
    out["memory"] = winner(least, ties, planned, "bytes on the fullest device", "weights and KV")
    most = max(schemes, key=lambda s: s["max_concurrent_requests"])
    out["concurrency"] = winner(most, [], most["max_concurrent_requests"], "requests at once", "device memory")
    return out


def winner(scheme, tie, value, unit, limit):
    return {"scheme": scheme["scheme"], "tie": tie, "value": value, "unit": unit, "limit": limit,
            "start_command": scheme["start_command"], "vllm_command": scheme["vllm_command"]}


DEFINITIONS = {
    "ttft_ms": "Time to first token: from sending a request to receiving its first token, at the client.",
    "tpot_ms": "Time per output token: (last token's time - first token's time) / (tokens - 1), one value a request.",
    "itl_ms": "Inter-token latency: the gap between two consecutive tokens of a request, one value a gap.",
    "e2e_ms": "From sending a request to receiving its last token.",
    "output_tok_s": "Tokens received over the time from the first request sent to the last token received.",
    "goodput_rps": "Requests that met every objective of --slo, per second.",
    "output_tok_s_user": "1000 / TPOT: the speed that one user sees.",
    "device_busy": "Seconds in operators over wall time, mean over ranks; waiting and spinning are not busy.",
    "mfu": "The model's FLOPs over the peak that all devices reached in the probe of this run.",
    "mbu": "Bytes of weights and KV that must be read, over the bandwidth reached in the probe of this run.",
    "efficiency": "Output tok/s per device over the baseline's: at the same load, and at a load larger by the ratio "
                  "of devices."}

LAWS = [
    {"name": "tp", "statement": "A larger TP lowers TTFT but communicates more.", "verdict": "holds",
     "evidence": "TTFT at c8 falls from 49.1 ms (tp1) to 10.9 ms (tp8), interval of the difference "
                 "[36.9, 39.5] ms; TP takes 0 % and 21.8 % of the step."},
    {"name": "pp", "statement": "PP saves memory and hurts small batches.", "verdict": "holds",
     "evidence": "pp8 holds 8.2 GiB of weights a device against 57.2 GiB; at c1 its TPOT is 1.17 times tp1's."},
    {"name": "dp", "statement": "DP alone scales throughput linearly, at a load that grows with it.",
     "verdict": "undecided",
     "evidence": "dp8 at c64: 0.97 of tp1 at c8 per device, interval [0.93, 1.01]; 5 repeats are too few."},
    {"name": "ep", "statement": "EP can slow down at low concurrency.", "verdict": "fails",
     "evidence": "tp8ep8 against tp8 at c1: TPOT +0.4 %, interval [-0.9, 1.6] %."}]


def main():
    schemes = []
    for row in TIMED:
        entry = scheme_entry(*row)
        entry["loads"] = [load_point(*row, c) for c in POINTS]
        schemes.append(entry)
    efficiencies(schemes)
    by_point = [{"point": f"c{c}", "winners": winners(schemes, f"c{c}")} for c in POINTS]
    failed = scheme_entry("tp2dp4ep8", 2, 1, 4, 8, failure="rank 5 (stage 0, replica 2, shard 1) made no "
                          "progress for 5 s in layer 31, ep_combine: it is missing from that exchange")
    failed["loads"] = []
    illegal = [
        scheme_entry("tp3", 3, 1, 1, 1, legal=False,
                     reason="tp 3 does not divide 32 attention heads. Nearest legal schemes: tp2, tp4."),
        scheme_entry("tp4ep3", 4, 1, 1, 3, legal=False,
                     reason="ep 3 does not divide 128 experts. Nearest legal schemes: tp4ep2, tp4ep4.")]
    for scheme in schemes:  # the last load point stands for the scheme where one is asked for
        scheme.update({k: v for k, v in scheme["loads"][-1].items()})
    report = {
        "schema": 2, "version": "0.2.0", "commit": "8b5b9a9",
        "command": "fourfold verify qwen3-30b-a3b --load-format dummy --devices 8 --concurrency 1,8,64,256 "
                   "--input-len 512 --output-len 128 --repeats 5 --slo ttft=50ms,tpot=15ms --report out.html",
        "date": "2025-03-14T09:26:53Z", "seed": 0,
        "machine": {"cpu": "AMD EPYC 9655 96-Core Processor", "isa": "cuda sm_90", "cores": 96,
                    "gpus": ["NVIDIA H100 80GB HBM3"] * 8, "device_memory_bytes": 84987740160},
        "model": {"name": "qwen3-30b-a3b", "family": "qwen3_moe", "parameters": 30532122624,
                  "dummy_weights": True},
        "load": {"kind": "closed", "input_len": INPUT, "output_len": OUTPUT, "shared_prefix": 0, "turns": 1,
                 "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
                 "burstiness": None, "trace": None, "trace_scale": None, "concurrency": list(POINTS), "rates": [],
                 "repeats": REPEATS, "slo": {"ttft_ms": 50.0, "tpot_ms": 15.0, "e2e_ms": None, "percentile": None}},
        "numerics": "fast", "backend": "cuda", "cpus_per_device": 1,
        "peaks": {"matmul_flop_s": 7.412e14, "read_bytes_s": 2.87e12},
        "baseline": "tp1", "schemes": schemes + [failed] + illegal,
        "winners": by_point[-1]["winners"], "winners_by_point": by_point, "laws": LAWS,
        "definitions": DEFINITIONS}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, separators=(",", ":")).replace('{"scheme"', '\n{"scheme"')
                   .replace('{"point"', '\n{"point"').replace('"metrics"', '\n"metrics"') + "\n")


if __name__ == "__main__":
    main()
