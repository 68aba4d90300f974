# The few commands that a person or CI needs; each works in a clean clone. The build itself is
# CMake's: CMakePresets.json has `release` for use, `dev` and `tsan` for tests under sanitizers.

SOURCES = find src tests bench -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh'
JOBS := $(shell nproc)

.DEFAULT_GOAL := help
.PHONY: help build verify test fuzz bench format lint

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s%s\n", $$1, $$2}' Makefile

build: ## set up and build build/release/fourfold
	tools/setup.sh
	cmake --preset release
	cmake --build --preset release --target fourfold

verify: build ## set up, build, and compare the schemes on this machine with the built-in model
	build/release/fourfold verify --report build/verify.html

test: ## set up, build, and run every check and test
	tools/setup.sh --tests
	cmake --preset release
	$(MAKE) --no-print-directory lint
	cmake --workflow --preset dev
	cmake --workflow --preset tsan
	cmake --workflow --preset release
	$(MAKE) --no-print-directory fuzz

fuzz: ## fuzz every parser, each for FUZZ_SECONDS (30); needs clang 19, see tests/fuzz/README.md
	cmake --workflow --preset fuzz

bench: build ## set up, build, and run the benchmarks
	cmake --build --preset release --target benchmarks
	set -e; for program in build/release/bench/*_benchmark; do $$program; done

format: ## format every source file in place
	$(SOURCES) | xargs clang-format -i

lint: ## check format and clang-tidy's allow-list (needs a configured build/release)
	$(SOURCES) | xargs clang-format --dry-run -Werror
	run-clang-tidy-19 -quiet -p build/release -j $(JOBS) -extra-arg=-w '/src/.*(?<!_test)\.cc$$'
