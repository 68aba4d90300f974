#!/bin/sh
# Proves and measures the schemes of all GPUs of this machine, part by part:
#
#   bench/multi_gpu.sh OUT_DIR [PART...]
#
# Each part takes at most ten minutes and leaves PART.json and PART.txt (verify also PART.html) in
# OUT_DIR. A part whose JSON is there is not run again, so the script can be stopped and started.
#   FOURFOLD  the program (default: build/release/fourfold)
#   GPUS      how many to use: 2, 4 or 8 (default: all that nvidia-smi lists)
set -u

out=${1:?"usage: bench/multi_gpu.sh OUT_DIR [PART...]"}
shift
fourfold=${FOURFOLD:-$(dirname "$0")/../build/release/fourfold}
gpus=${GPUS:-$(nvidia-smi -L | wc -l)}
case $gpus in
  2) dense=tp1,tp2,pp2,dp2; experts=tp1,tp2,tp2ep2,dp2ep2 ;;
  4) dense=tp1,tp4,tp2pp2,pp2dp2,dp4; experts=tp1,tp4,tp4ep4,dp4ep4 ;;
  8) dense=tp1,A,B,C,D; experts=tp1,tp8,tp8ep8,dp8ep8 ;;
  *) echo "$gpus GPUs: expected 2, 4 or 8 (GPUS=2 takes two of more)" >&2; exit 2 ;;
esac
# Models that one GPU cannot hold are compared without it.
without_one=${dense#tp1,}
wanted=" $* "
failed=0
mkdir -p "$out"

# part NAME ARGUMENTS...: runs fourfold with them, unless it was done or others were asked for.
part() {
  name=$1
  shift
  case $wanted in
    "  " | *" $name "*) ;;
    *) return ;;
  esac
  if [ -s "$out/$name.json" ]; then
    echo "$name: done before"
    return
  fi
  echo "$name: $(date -u +%H:%M:%S)"
  if timeout 600 "$fourfold" "$@" --json "$out/$name.json.new" >"$out/$name.txt" 2>&1; then
    mv "$out/$name.json.new" "$out/$name.json"
  else
    echo "$name: failed; its last words:"
    tail -n 3 "$out/$name.txt"
    failed=1
  fi
}

verify() {
  name=$1
  shift
  part "$name" verify "$@" --backend cuda --report "$out/$name.html"
}

load="--load-format dummy --input-len 1024 --output-len 256 --repeats 2"

part comm bench comm --devices "$gpus" --sizes 8KiB,32KiB,128KiB,512KiB,2MiB,8MiB,64MiB
verify answers-tiny tiny --devices "$gpus" --concurrency 4
verify answers-tiny-moe tiny-moe --devices "$gpus" --concurrency 4
# shellcheck disable=SC2086  # words on purpose
{
  verify llama-3.1-8b-c1 llama-3.1-8b --schemes "$dense" --concurrency 1 $load
  verify llama-3.1-8b-load llama-3.1-8b --schemes "$dense" --concurrency "16,64,$((64 * gpus))" \
    --requests "$((64 * gpus))" $load
  verify llama-3.1-70b-c1 llama-3.1-70b --schemes "$without_one" --concurrency 1 $load
  verify llama-3.1-70b-load llama-3.1-70b --schemes "$without_one" --concurrency 64 $load
  verify qwen3-30b-a3b qwen3-30b-a3b --schemes "$experts" --concurrency 1,16 $load
  verify mixtral-8x7b mixtral-8x7b --schemes "$experts" --concurrency 1,16 $load
}
exit $failed
