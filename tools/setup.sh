#!/usr/bin/env bash
# Installs what fourfold needs on Debian 12: with no argument what the build needs, with --tests also
# what the tests need, including the pretrained checkpoint that one of them reads. Runs as root or
# with sudo. Installs only what is missing, and then needs no network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(
  g++ cmake ninja-build ccache pkg-config git ca-certificates
  libopenmpi-dev openmpi-bin openssh-client
  libspdlog-dev libfmt-dev nlohmann-json3-dev libcli11-dev libxxhash-dev libpcre2-dev
  libutf8proc-dev libyaml-cpp-dev libboost1.81-dev libgtest-dev libgmock-dev libbenchmark-dev
)
case "${1:-}" in
  "") ;;
  # clang-tidy 14, the default of Debian 12, does not parse all of C++20 that g++ 12 does.
  --tests) packages+=(clang-format clang-tidy-19 clang-19 libclang-rt-19-dev python3 python3-pip
    python3-venv chromium haproxy openssl curl) ;;
  *)
    echo "setup: expected no argument or --tests, found '$1'" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null; then
  echo "setup: this is not a Debian system. Install the equivalents of these Debian 12 packages," \
    "then use 'cmake --preset release' directly: ${packages[*]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done

if ((${#missing[@]} == 0)); then
  echo "setup: all ${#packages[@]} packages are installed"
else
  as_root=()
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
      echo "setup: these packages are missing and need root or sudo: ${missing[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "setup: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  if ! { "${as_root[@]}" apt-get update -q &&
    "${as_root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}"; }; then
    echo "setup: apt-get could not install ${missing[*]}. Check the network and" \
      "/etc/apt/sources.list, then run this again." >&2
    exit 1
  fi
fi

# A failed fetch does not end the set-up: every other test runs, and the test of that checkpoint
# fails with the path that it misses.
if [[ ${1:-} == --tests ]] && ! tools/fetch_gemma.sh build/models; then
  echo "setup: the Gemma 3 270M checkpoint could not be fetched (see above), so its test will" \
    "fail. Run 'tools/fetch_gemma.sh build/models' when the network is back." >&2
fi

# The clients of `fourfold serve` that its test runs, a second reader of HTTP, and what judges JSON that
# answers a schema.
client_packages=(openai==3.57.0 langchain-openai==1.7.4 h11==0.16.0 'jsonschema[format-nongpl]==4.26.0')
if [[ ${1:-} == --tests ]] &&
  ! build/python/bin/python3 -c 'import openai, langchain_openai, h11, jsonschema, rfc3339_validator' 2>/dev/null; then
  if ! { python3 -m venv build/python &&
    build/python/bin/pip install --quiet "${client_packages[@]}"; }; then
    echo "setup: ${client_packages[*]} could not be installed (see above), so the tests of" \
      "clients and of schemas will fail. Run this again when the network is back." >&2
  fi
fi
