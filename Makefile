# Targets for development. A target builds or installs everything that it needs, except the programs that hack/tools.sh --check
# names: a Rust toolchain, Go, Python, a C compiler, curl and openssl.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Keep the demo running at its end: make demo KEEP=1
KEEP ?=
# The build folder of cargo. CI uses a folder outside the repository, so that it builds unchanged crates only once.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Only compare the result with docs/reference/conformance.md, and do not change the page: make conformance CHECK=1
CHECK ?=
# Leave out Garage and keep its table unchanged: make conformance GARAGE= (the first build of Garage takes ten minutes)
GARAGE ?= 1
# Run only the tests with a name that contains a word: make test TESTS=policy
TESTS ?=
# Run only short measurements, in about three minutes: make bench BENCH=quick
BENCH ?=

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## Build the control plane and the S3 server for the tests and the demo (once per machine)
	@hack/tools.sh >/dev/null

.PHONY: check-tools
check-tools:
	@hack/tools.sh --check

.PHONY: demo
demo: check-tools ## Show an upload and a download on a real control plane (KEEP=1 keeps it running)
	@export VALET_TOOLS=$$(hack/tools.sh); \
	  cargo build --bin valet && cargo build -p valet-harness --bin demo && \
	  KEEP='$(KEEP)' VALET_BIN='$(TARGET)/debug/valet' '$(TARGET)/debug/demo'

# Reports all missing programs at once, before the build starts.
TEST_CHECK = lacking=; hack/tools.sh --check chart stores tests || lacking=1; hack/azure.sh --check || lacking=1; [ -z "$$lacking" ]

.PHONY: test
test: ## Run all tests, with a real apiserver and a real S3 server
	@$(TEST_CHECK); hack/azure.sh >/dev/null; export VALET_TOOLS=$$(hack/tools.sh chart stores); hack/test.sh $(TESTS)

.PHONY: lint
lint: check-tools ## Check formatting, lints, prose, generated files, version numbers, module order, pinned images, and licences and advisories of crates
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --quiet -- --deny warnings
	@hack/generate.sh --check
	@hack/version.sh --check
	@hack/layers.py
	@hack/prose.sh
	@hack/pinned.sh
	@hack/deny.sh

.PHONY: generate
generate: ## Generate crds/, the CRD templates of the chart and the reference pages
	@hack/generate.sh

.PHONY: bench
bench: check-tools ## Measure latency, bursts, expiry and a restart, compared with a client that sends the same requests (BENCH=quick)
	@export VALET_TOOLS=$$(hack/tools.sh); \
	  cargo build --release --bin valet && cargo build --release -p valet-harness --bin bench && \
	  cargo build --release -p valet-bench && export VALET_BIN='$(TARGET)/release/valet' && \
	  $(if $(filter quick,$(BENCH)),,'$(TARGET)/release/bench' &&) BENCH='$(BENCH)' '$(TARGET)/release/load'

.PHONY: handover
handover: check-tools ## Measure how long there is no leader after the leader is killed, frozen or stopped, ten times each
	@export VALET_TOOLS=$$(hack/tools.sh); \
	  cargo build --release --bin valet && cargo build --release -p valet-harness --bin handover && \
	  VALET_BIN='$(TARGET)/release/valet' '$(TARGET)/release/handover'

# Number of rounds, and the seed of the times at which faults occur: make faults FAULTS_ROUNDS=10 FAULTS_SEED=42
.PHONY: faults
faults: check-tools ## Cause crashes, freezes and outages while tenants work, and check all guarantees
	@export VALET_TOOLS=$$(hack/tools.sh); \
	  cargo build --quiet --bin valet && cargo build --quiet -p valet-harness --bin faults && \
	  VALET_BIN='$(TARGET)/debug/valet' '$(TARGET)/debug/faults'

.PHONY: conformance
conformance: check-tools ## Test on real stores what each store enforces, and write docs/reference/conformance.md (CHECK=1 only compares)
	@hack/azure.sh >/dev/null; export VALET_TOOLS=$$(hack/tools.sh stores) VALET_GOOGLE=$$(hack/google.sh); \
	  $(if $(GARAGE),VALET_GARAGE=$$(hack/garage.sh) && export VALET_GARAGE &&) \
	  cargo build --bin valet && cargo build -p valet-harness --bin conformance && \
	  VALET_BIN='$(TARGET)/debug/valet' '$(TARGET)/debug/conformance' $(if $(CHECK),--check) docs/reference/conformance.md \
	  $(if $(GARAGE),&& cargo test --quiet --test stores -- --ignored conformance_check_on_garage_finds_no_write_once)

# The charts of cert-manager and external-secrets, each a folder or an archive: make rights CERT_MANAGER=DIR EXTERNAL_SECRETS=DIR.
# With CHECK=1, a row that is missing on the page is an error.
CERT_MANAGER ?=
EXTERNAL_SECRETS ?=
.PHONY: rights
rights: check-tools ## Compare the permissions for Secrets of Valet, cert-manager and external-secrets
	@export VALET_TOOLS=$$(hack/tools.sh chart); cargo build --quiet -p valet-harness --bin rights && \
	  CERT_MANAGER='$(CERT_MANAGER)' EXTERNAL_SECRETS='$(EXTERNAL_SECRETS)' \
	  '$(TARGET)/debug/rights' $(if $(CHECK),--check docs/reference/permissions.md)

.PHONY: sessions
sessions: check-tools ## Test the renewal of STS sessions of 15 minutes (22 minutes), and web identity on versitygw in its own network namespace
	@export VALET_TOOLS=$$(hack/tools.sh chart stores); \
	  cargo test --test stores -- --ignored --nocapture sessions_of_15_minutes_are_renewed_in_time web_identity_on_versitygw_signs_with_sessions

.PHONY: clocks
clocks: ## Test the operator with a wrong clock, on two stores (about 10 minutes)
	@hack/tools.sh --check stores clocks; export VALET_TOOLS=$$(hack/tools.sh stores); \
	  cargo test --test clocks -- --ignored --nocapture

.PHONY: monitoring
monitoring: check-tools ## Run every query of the dashboard and the alerts on a real Prometheus under load, and draw the panels
	@export VALET_TOOLS=$$(hack/tools.sh chart monitoring); \
	  cargo build --bin valet && cargo build -p valet-harness --bin monitoring && \
	  VALET_BIN='$(TARGET)/debug/valet' '$(TARGET)/debug/monitoring' docs/images/dashboard.svg

# End-to-end tests by name, for example STORIES=drain. `fast` selects the tests that run in parallel: make e2e STORIES=fast
STORIES ?=
# The context (in E2E_KUBECONFIG) of an existing cluster. If it is empty, the tests start a node on this machine.
E2E_CONTEXT ?=
E2E_IMAGE ?= localhost/valet-e2e:1
E2E_VALET_IMAGE ?= ghcr.io/valetkey/valet:$(shell hack/version.sh)
# The image for the tests on MinIO, with the MinIO server and the S3 client rclone. Other tests do not need it.
E2E_STORES_IMAGE ?= localhost/valet-e2e-stores:1
# Tests that need additional programs, grouped by the script that installs the programs.
E2E_ON_STORES = s3-client
E2E_ON_AZURE = azure
E2E_ON_GOOGLE = google
E2E_ON_FLUX = flux-grants flux-release
E2E_ON_NETWORK = network-policy
E2E_ON_BROWSER = browser-form
# Not empty if STORIES selects one of these tests: $(call e2e-plays,NAMES)
e2e-plays = $(strip $(if $(STORIES),$(foreach word,$(STORIES),$(findstring $(word),$(1))),all))
E2E_STORES = $(if $(call e2e-plays,$(E2E_ON_STORES)),stores)
E2E_FLUX = $(if $(call e2e-plays,$(E2E_ON_FLUX)),flux)
E2E_NETWORK = $(if $(call e2e-plays,$(E2E_ON_NETWORK)),VALET_NETWORK=$$(hack/network.sh) && export VALET_NETWORK &&)
E2E_CLOUDS = $(if $(call e2e-plays,$(E2E_ON_AZURE)),hack/azure.sh >/dev/null &&) \
  $(if $(call e2e-plays,$(E2E_ON_GOOGLE)),VALET_GOOGLE=$$(hack/google.sh) && export VALET_GOOGLE &&)
E2E = '$(TARGET)/debug/e2e' $(STORIES)
# Reports all missing programs at once, before the build starts.
E2E_CHECK = lacking=; \
  hack/tools.sh --check chart node $(E2E_STORES) $(if $(call e2e-plays,$(E2E_ON_BROWSER)),browser) || lacking=1; \
  $(if $(call e2e-plays,$(E2E_ON_AZURE)),hack/azure.sh --check || lacking=1;) \
  $(if $(call e2e-plays,$(E2E_ON_GOOGLE)),hack/google.sh --check || lacking=1;) \
  $(if $(E2E_FLUX),hack/flux.sh --check || lacking=1;) \
  $(if $(call e2e-plays,$(E2E_ON_NETWORK)),hack/network.sh --check || lacking=1;) \
  [ -z "$$lacking" ]

.PHONY: images
images: ## Build the images of the operator and of the end-to-end tests, without a container engine
	@hack/tools.sh --check node; export VALET_TOOLS=$$(hack/tools.sh); hack/images.sh

.PHONY: e2e
e2e: ## Run the end-to-end tests with the chart on a node with real pods (STORIES=fast, E2E_CONTEXT=NAME): docs/testing-e2e.md
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

# A separate kubeconfig file for this cluster, so that no command can change another cluster.
KIND = kind-valet-e2e
.PHONY: kind-e2e
kind-e2e: ## Run the end-to-end tests on kind, on a machine with Docker
	docker build --tag '$(E2E_VALET_IMAGE)' .
	docker build --tag '$(E2E_IMAGE)' tests/e2e/images
	docker build --target stores --tag '$(E2E_STORES_IMAGE)' tests/e2e/images
	kind create cluster --name valet-e2e --kubeconfig '$(TARGET)/$(KIND)' --wait 120s
	kind load docker-image --name valet-e2e '$(E2E_VALET_IMAGE)' '$(E2E_IMAGE)' '$(E2E_STORES_IMAGE)'
	$(MAKE) e2e E2E_CONTEXT='$(KIND)' E2E_KUBECONFIG='$(TARGET)/$(KIND)'
	kind delete cluster --name valet-e2e
