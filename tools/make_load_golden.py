#!/usr/bin/env python3
"""Golden numbers of src/load/testdata/request_log.json: what the formulas of three other
benchmark clients give for it, computed from the log alone.

    python3 tools/make_load_golden.py          # writes src/load/testdata/request_log.golden.json

A chunk of the log is [time received (us), output tokens in it]. Where the formulas come from:
- vllm: vllm/benchmarks/serve.py, calculate_metrics (commit 009e6d4a): TPOT = (latency - TTFT) /
  (tokens - 1) of requests with more than one token; ITL = every gap between two received chunks;
  numpy's linear percentiles and std; rates over the duration; goodput counts requests that keep
  every bound, with a TPOT of 0 where there is one token.
- aiperf: ai-dynamo/aiperf, src/aiperf/metrics/types (commit 58dd5dea): inter token latency =
  (request latency - TTFT) / (tokens - 1), or with --per-chunk-usage / (tokens - tokens of the first
  chunk); inter chunk latency = every gap; output token throughput per user = mean over requests of
  1 / inter token latency; duration = last response - first request.
- inferencex: InferenceMAX, utils/process_result.py (commit 0ef81285): takes vLLM's result;
  throughput per GPU = total token throughput / GPUs, interactivity = 1000 / (that statistic of TPOT
  in ms).
"""

import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "src" / "load" / "testdata"


def statistics(values):
    return {
        "mean": float(np.mean(values)),
        "p50": float(np.percentile(values, 50)),
        "p90": float(np.percentile(values, 90)),
        "p99": float(np.percentile(values, 99)),
    }


def vllm(requests, slo, duration_s):
    ttft, tpot, all_tpot, itl, e2el = [], [], [], [], []
    for r in requests:
        times = [at for at, _ in r["chunks"]]
        tokens = sum(n for _, n in r["chunks"])
        ttft.append((times[0] - r["sent_us"]) / 1e3)
        e2el.append((times[-1] - r["sent_us"]) / 1e3)
        itl += [(b - a) / 1e3 for a, b in zip(times, times[1:])]
        one = (e2el[-1] - ttft[-1]) / (tokens - 1) if tokens > 1 else 0.0
        all_tpot.append(one)
        if tokens > 1:
            tpot.append(one)
    good = sum(
        a <= slo["ttft"] and b <= slo["tpot"] and c <= slo["e2e"]
        for a, b, c in zip(ttft, all_tpot, e2el)
    )
    output = sum(n for r in requests for _, n in r["chunks"])
    prompt = sum(r["prompt_tokens"] for r in requests)
    return {
        "duration": duration_s,
        "request_throughput": len(requests) / duration_s,
        "request_goodput": good / duration_s,
        "output_throughput": output / duration_s,
        "total_token_throughput": (prompt + output) / duration_s,
        "ttft_ms": statistics(ttft),
        "tpot_ms": statistics(tpot),
        "itl_ms": statistics(itl),
        "e2el_ms": statistics(e2el),
    }


def aiperf(requests, duration_s):
    default, per_chunk, gaps = [], [], []
    for r in requests:
        times = [at for at, _ in r["chunks"]]
        tokens = sum(n for _, n in r["chunks"])
        gaps += [(b - a) / 1e3 for a, b in zip(times, times[1:])]
        if tokens < 2:
            continue
        window = (times[-1] - times[0]) / 1e3
        default.append(window / (tokens - 1))
        first = r["chunks"][0][1]
        per_chunk.append(window / (tokens - first if tokens > first else tokens - 1))
    return {
        "inter_token_latency_ms": float(np.mean(default)),
        "inter_token_latency_per_chunk_usage_ms": float(np.mean(per_chunk)),
        "inter_chunk_latency_ms": float(np.mean(gaps)),
        "output_token_throughput_per_user": float(np.mean([1e3 / v for v in default if v > 0])),
        "output_token_throughput": sum(n for r in requests for _, n in r["chunks"]) / duration_s,
    }


def inferencex(result, gpus):
    out = {f"{name}_intvty": 1e3 / value for name, value in result["tpot_ms"].items()}
    out["tput_per_gpu"] = result["total_token_throughput"] / gpus
    out["output_tput_per_gpu"] = result["output_throughput"] / gpus
    return out


def main():
    log = json.loads((FOLDER / "request_log.json").read_text())
    finished = [r for r in log["requests"] if not r["failed"]]
    begin = min(r["sent_us"] for r in log["requests"])
    end = max(r["chunks"][-1][0] for r in finished)
    duration_s = (end - begin) / 1e6
    vllm_result = vllm(finished, log["slo_ms"], duration_s)
    golden = {
        "vllm": vllm_result,
        "aiperf": aiperf(finished, duration_s),
        "inferencex": inferencex(vllm_result, log["gpus"]),
    }
    (FOLDER / "request_log.golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
