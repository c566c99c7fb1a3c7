# Thin: each target is a line or two over a script or cargo. All of them install what they lack.
.DEFAULT_GOAL := help
.PHONY: help demo test test-full fuzz bench lint fmt clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## pulls an image through a service of its own and reads a file back; IMAGE=reference takes any, KEEP=1 leaves it running
	scripts/demo.sh

test: ## all tests, on small images and pydata
	scripts/setup.sh test
	scripts/corpus.sh pydata tiny odd
	cargo test --locked

test-full: ## the same, on the whole corpus (debian, pydata, node, torch)
	scripts/setup.sh test
	scripts/corpus.sh debian pydata node torch tiny odd
	CLIPWRIGHT_FULL=1 cargo test --locked

fuzz: ## every fuzz target for 10 s; FUZZ_SECONDS chooses
	scripts/setup.sh fuzz
	scripts/fuzz.sh

bench: ## index and pack the corpus with upstream's tools and with ours; BENCH_IMAGES="debian node" chooses
	scripts/setup.sh bench
	bench/index.sh
	bench/pack.sh

lint: ## formatting, clippy, checked-in documents, dependencies, scripts
	scripts/setup.sh lint
	scripts/lint.sh

fmt: ## formats Rust and Go
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml
	if command -v gofmt > /dev/null; then gofmt -w tests/interop; fi

clean: ## removes what was built; keeps the corpus
	cargo clean --profile dev
	cargo clean --profile release
	rm -rf target/fuzz
