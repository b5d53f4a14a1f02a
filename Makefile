# What there is to do. Everything that a target needs it builds or installs itself, except what hack/tools.sh --check
# names: a Rust toolchain, Go, Python, a C compiler, curl and openssl.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The demo can be left running to play with: make demo KEEP=1
KEEP ?=
# Where cargo builds: CI keeps this outside the tree, so that what has not changed is built once a machine.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Only compare what stores enforce with the page that is there: make conformance CHECK=1
CHECK ?=
# Try two stores only, and leave Garage's table as it is (Garage takes ten minutes to build, once a machine): make conformance GARAGE=
GARAGE ?= 1
# A part of the tests by name: make test TESTS=policy
TESTS ?=

.PHONY: help
help: ## Say what the targets do
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

# All that the machine lacks at once, before anything is built.
TEST_CHECK = lacking=; hack/tools.sh --check chart stores tests || lacking=1; hack/azure.sh --check || lacking=1; [ -z "$$lacking" ]

.PHONY: test
test: ## Run every test, against a real apiserver and a real S3 server
	@$(TEST_CHECK); hack/azure.sh >/dev/null; export VALET_TOOLS=$$(hack/tools.sh chart stores); hack/test.sh $(TESTS)

.PHONY: lint
lint: check-tools ## Formatting, lints, generated files that are out of date, versions that differ, licences and advisories of crates
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --quiet -- --deny warnings
	@hack/generate.sh --check
	@hack/version.sh --check
	@hack/layers.py
	@hack/pinned.sh
	@hack/deny.sh

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

# How often each fault comes, and at which moments: make faults FAULTS_ROUNDS=10 FAULTS_SEED=42
.PHONY: faults
faults: check-tools ## Crashes, freezes and outages while tenants work, and whether every promise was kept
	@export VALET_TOOLS=$$(hack/tools.sh); \
	  cargo build --quiet --bin valet && cargo build --quiet -p valet-harness --bin faults && \
	  VALET_BIN='$(TARGET)/debug/valet' '$(TARGET)/debug/faults'

.PHONY: conformance
conformance: check-tools ## Try each promise of a key on real stores, and write docs/reference/conformance.md (CHECK=1 compares only)
	@hack/azure.sh >/dev/null; export VALET_TOOLS=$$(hack/tools.sh stores) VALET_GOOGLE=$$(hack/google.sh); \
	  $(if $(GARAGE),VALET_GARAGE=$$(hack/garage.sh) && export VALET_GARAGE &&) \
	  cargo build --bin valet && cargo build -p valet-harness --bin conformance && \
	  VALET_BIN='$(TARGET)/debug/valet' '$(TARGET)/debug/conformance' $(if $(CHECK),--check) docs/reference/conformance.md \
	  $(if $(GARAGE),&& cargo test --quiet --test stores -- --ignored real_keys_on_garage)

# Their charts, each a folder or an archive: make rights CERT_MANAGER=DIR EXTERNAL_SECRETS=DIR; with CHECK=1 a row that is not on
# the page is an error.
CERT_MANAGER ?=
EXTERNAL_SECRETS ?=
.PHONY: rights
rights: check-tools ## What the operator's account may do to Secrets, beside cert-manager's and external-secrets'
	@export VALET_TOOLS=$$(hack/tools.sh chart); cargo build --quiet -p valet-harness --bin rights && \
	  CERT_MANAGER='$(CERT_MANAGER)' EXTERNAL_SECRETS='$(EXTERNAL_SECRETS)' \
	  '$(TARGET)/debug/rights' $(if $(CHECK),--check docs/reference/permissions.md)

.PHONY: sessions
sessions: check-tools ## Sessions of 15 minutes watched for 22, and web identity on versitygw in a network namespace of its own
	@export VALET_TOOLS=$$(hack/tools.sh chart stores); \
	  cargo test --test stores -- --ignored --nocapture sessions_of_15_minutes web_identity_on_versitygw

.PHONY: clocks
clocks: ## What the operator says and does while its clock is wrong, on two stores (about 10 minutes)
	@hack/tools.sh --check stores clocks; export VALET_TOOLS=$$(hack/tools.sh stores); \
	  cargo test --test clocks -- --ignored --nocapture

.PHONY: monitoring
monitoring: check-tools ## Put every query of dashboard and alerts to a real Prometheus under load, and draw the panels
	@export VALET_TOOLS=$$(hack/tools.sh chart monitoring); \
	  cargo build --bin valet && cargo build -p valet-harness --bin monitoring && \
	  VALET_BIN='$(TARGET)/debug/valet' '$(TARGET)/debug/monitoring' docs/images/dashboard.svg

# Stories by name, as in STORIES=drain; `fast` are those that run side by side: make e2e STORIES=fast
STORIES ?=
# A cluster that you have, by the name of its context in E2E_KUBECONFIG; else a node is brought up on this machine.
E2E_CONTEXT ?=
E2E_IMAGE ?= localhost/valet-e2e:1
E2E_VALET_IMAGE ?= ghcr.io/valetkey/valet:$(shell hack/version.sh)
# The image for the stories on MinIO, which need a server and a client that nobody else needs.
E2E_STORES_IMAGE ?= localhost/valet-e2e-stores:1
# Stories that need more than the others, by what installs it.
E2E_ON_STORES = s3-client
E2E_ON_AZURE = azure
E2E_ON_GOOGLE = google
E2E_ON_FLUX = flux-grants flux-release
E2E_ON_NETWORK = network-policy
E2E_ON_BROWSER = browser-form
# Whether one of these stories is to be played: $(call e2e-plays,NAMES)
e2e-plays = $(strip $(if $(STORIES),$(foreach word,$(STORIES),$(findstring $(word),$(1))),all))
E2E_STORES = $(if $(call e2e-plays,$(E2E_ON_STORES)),stores)
E2E_FLUX = $(if $(call e2e-plays,$(E2E_ON_FLUX)),flux)
E2E_NETWORK = $(if $(call e2e-plays,$(E2E_ON_NETWORK)),VALET_NETWORK=$$(hack/network.sh) && export VALET_NETWORK &&)
E2E_CLOUDS = $(if $(call e2e-plays,$(E2E_ON_AZURE)),hack/azure.sh >/dev/null &&) \
  $(if $(call e2e-plays,$(E2E_ON_GOOGLE)),VALET_GOOGLE=$$(hack/google.sh) && export VALET_GOOGLE &&)
E2E = '$(TARGET)/debug/e2e' $(STORIES)
# All that the machine lacks at once, before anything is built.
E2E_CHECK = lacking=; \
  hack/tools.sh --check chart node $(E2E_STORES) $(if $(call e2e-plays,$(E2E_ON_BROWSER)),browser) || lacking=1; \
  $(if $(call e2e-plays,$(E2E_ON_AZURE)),hack/azure.sh --check || lacking=1;) \
  $(if $(call e2e-plays,$(E2E_ON_GOOGLE)),hack/google.sh --check || lacking=1;) \
  $(if $(E2E_FLUX),hack/flux.sh --check || lacking=1;) \
  $(if $(call e2e-plays,$(E2E_ON_NETWORK)),hack/network.sh --check || lacking=1;) \
  [ -z "$$lacking" ]

.PHONY: images
images: ## Make the operator's image and those of the end-to-end tests, without a container engine
	@hack/tools.sh --check node; export VALET_TOOLS=$$(hack/tools.sh); hack/images.sh

.PHONY: e2e
e2e: ## The chart on a node with real pods, story by story (STORIES=fast, E2E_CONTEXT=NAME): docs/testing-e2e.md
ifeq ($(E2E_CONTEXT),)
	@$(E2E_CHECK); export VALET_TOOLS=$$(hack/tools.sh chart node $(E2E_STORES)) && \
	  $(if $(E2E_FLUX),VALET_FLUX=$$(hack/flux.sh) && export VALET_FLUX &&) $(E2E_NETWORK) \
	  E2E_IMAGES=$$(hack/images.sh valet e2e pause $(E2E_STORES) $(E2E_FLUX)) && export E2E_IMAGES && $(E2E_CLOUDS) \
	  cargo build --quiet -p valet-harness --bin e2e && KEEP='$(KEEP)' $(E2E)
else
	@hack/tools.sh --check chart; export VALET_TOOLS=$$(hack/tools.sh chart) && \
	  cargo build --quiet -p valet-harness --bin e2e && \
	  E2E_CONTEXT='$(E2E_CONTEXT)' E2E_VALET_IMAGE='$(E2E_VALET_IMAGE)' E2E_IMAGE='$(E2E_IMAGE)' \
	  E2E_STORES_IMAGE='$(E2E_STORES_IMAGE)' KEEP='$(KEEP)' $(E2E)
endif

# The cluster's own kubeconfig file, so that nothing else can be meant.
KIND = kind-valet-e2e
.PHONY: kind-e2e
kind-e2e: ## The same on kind, for a machine with Docker
	docker build --tag '$(E2E_VALET_IMAGE)' .
	docker build --tag '$(E2E_IMAGE)' tests/e2e/images
	docker build --target stores --tag '$(E2E_STORES_IMAGE)' tests/e2e/images
	kind create cluster --name valet-e2e --kubeconfig '$(TARGET)/$(KIND)' --wait 120s
	kind load docker-image --name valet-e2e '$(E2E_VALET_IMAGE)' '$(E2E_IMAGE)' '$(E2E_STORES_IMAGE)'
	$(MAKE) e2e E2E_CONTEXT='$(KIND)' E2E_KUBECONFIG='$(TARGET)/$(KIND)'
	kind delete cluster --name valet-e2e
