# What there is to do. Everything that a target needs it builds or installs itself, except what hack/tools.sh --check
# names: a Rust toolchain, Go, Python, a C compiler, curl and openssl.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The demo can be left running to play with: make demo KEEP=1
KEEP ?=
# Where cargo builds: CI keeps this outside the tree, so that what has not changed is built once a machine.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# A part of the tests by name: make test TESTS=policy
TESTS ?=

.PHONY: help
help: ## Say what the targets do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## Build the control plane and the S3 server that tests and demo run against (once a machine)
	@hack/tools.sh >/dev/null

.PHONY: check-tools
check-tools:
	@hack/tools.sh --check

.PHONY: demo
demo: check-tools ## Watch the main job on a real control plane (KEEP=1 leaves it running)
	@export VALET_TOOLS=$$(hack/tools.sh); \
	  cargo build --bin valet && cargo build -p valet-harness --bin demo && \
	  KEEP='$(KEEP)' VALET_BIN='$(TARGET)/debug/valet' '$(TARGET)/debug/demo'

.PHONY: test
test: check-tools ## Run every test, against a real apiserver and a real S3 server
	@export VALET_TOOLS=$$(hack/tools.sh chart stores); cargo test --workspace $(TESTS)

.PHONY: lint
lint: check-tools ## Formatting, lints, generated files that are out of date, versions that differ
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --quiet -- --deny warnings
	@hack/generate.sh --check
	@hack/version.sh --check

.PHONY: generate
generate: ## Write crds/ and the generated reference pages anew
	@hack/generate.sh

.PHONY: bench
bench: check-tools ## Latency from grant to Secret beside a bare client's create, and API writes per grant
	@export VALET_TOOLS=$$(hack/tools.sh); \
	  cargo build --release --bin valet && cargo build --release -p valet-harness --bin bench && \
	  VALET_BIN='$(TARGET)/release/valet' '$(TARGET)/release/bench'

.PHONY: handover
handover: check-tools ## How long nobody works when the replica that leads is killed, freezes or stops, ten times each
	@export VALET_TOOLS=$$(hack/tools.sh); \
	  cargo build --release --bin valet && cargo build --release -p valet-harness --bin handover && \
	  VALET_BIN='$(TARGET)/release/valet' '$(TARGET)/release/handover'

.PHONY: monitoring
monitoring: check-tools ## Put every query of dashboard and alerts to a real Prometheus under load, and draw the panels
	@export VALET_TOOLS=$$(hack/tools.sh chart monitoring); \
	  cargo build --bin valet && cargo build -p valet-harness --bin monitoring && \
	  VALET_BIN='$(TARGET)/debug/valet' '$(TARGET)/debug/monitoring' docs/images/dashboard.svg
