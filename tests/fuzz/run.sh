#!/usr/bin/env bash
# run.sh TARGET [libFuzzer flags...]: fuzzes one target for FUZZ_SECONDS (30) seconds or, where
# FUZZ_RUNS is set, for so many inputs. Starts from the seeds and from what earlier runs found, and
# leaves an input that fails in findings/ beside the target.
set -euo pipefail
target=$1
shift
name=$(basename "$target" _fuzz)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$(cd "$(dirname "$target")" && pwd)

corpus=$build/corpus/$name
findings=$build/findings
mkdir -p "$corpus" "$findings"
seeds=("$corpus")
for folder in "$here/seeds/$name" "$build/seeds/$name"; do
  if [[ -d $folder ]]; then seeds+=("$folder"); fi
done
# Names of functions in a finding's stack: addr2line comes with the compiler's binutils.
export ASAN_OPTIONS=${ASAN_OPTIONS:-external_symbolizer_path=$(command -v addr2line):allow_addr2line=1}
flags=(-timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1
  "-artifact_prefix=$findings/$name-")
if [[ -f $here/dictionaries/$name.dict ]]; then flags+=("-dict=$here/dictionaries/$name.dict"); fi
if [[ -n ${FUZZ_RUNS:-} ]]; then
  flags+=("-runs=$FUZZ_RUNS")
else
  flags+=("-max_total_time=${FUZZ_SECONDS:-30}")
fi
exec "$target" "${flags[@]}" "$@" "${seeds[@]}"
