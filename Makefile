# Thin: each target is a line or two over a script or cargo. All of them install what they lack.
.DEFAULT_GOAL := help
.PHONY: help demo test test-full soak fuzz bench lint fmt clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## makes archives of an image in every way and reads files back; IMAGE=reference takes any, KEEP=1 leaves the service running
	scripts/demo.sh

test: ## all tests, on small images and pydata
	scripts/setup.sh test
	scripts/test.sh pydata tiny odd

test-full: ## the same, on the whole corpus (debian, pydata, node, torch)
	scripts/setup.sh test
	CLIPWRIGHT_FULL=1 scripts/test.sh debian pydata node torch tiny odd

soak: ## 10,000 pulls while everything fails, and the counts; CLIPWRIGHT_SOAK=N chooses
	scripts/setup.sh test
	CLIPWRIGHT_SOAK=$${CLIPWRIGHT_SOAK:-10000} cargo test --locked --test all -- soak --nocapture

fuzz: ## every fuzz target for 10 s; FUZZ_SECONDS chooses
	scripts/setup.sh fuzz
	scripts/fuzz.sh

bench: ## index and pack the corpus with upstream's tools and with ours, start containers from mounts, then the queue and a rollout's report; BENCH_IMAGES="debian node" chooses
	scripts/setup.sh bench
	bench/index.sh
	bench/pack.sh
	bench/build.sh
	bench/mount.sh
	bench/queue.sh
	bench/report.sh

lint: ## formatting, clippy, checked-in documents, dependencies, scripts
	scripts/setup.sh lint
	scripts/lint.sh

fmt: ## formats Rust and Go
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml
	if command -v gofmt > /dev/null; then gofmt -w tests/interop tests/manifests clients/go examples; fi

clean: ## removes what was built; keeps the corpus
	cargo clean --profile dev
	cargo clean --profile release
	cargo clean --profile dist
	rm -rf target/fuzz
