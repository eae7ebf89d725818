# SEUSS for Kubernetes: everything a person or CI runs. Needs Debian 12 (x86-64), Rust, and /dev/kvm for the guests; as root,
# because containerd, namespaces and /dev/kvm need it. What is missing is installed or unpacked, and named while it happens.

SHELL := /bin/bash
CARGO ?= cargo
RUNTIME ?= seuss
CONTAINERD ?= 1.7
RUNS ?= 25

E2E := $(CARGO) run --quiet --package seuss-e2e --bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME,SEUSS_CACHE,SEUSS_KEEP)

.DEFAULT_GOAL := help
.PHONY: help prepare build shim harness guest run test images tools bench soak conformance node fmt clean

# Comparing with runc alone needs no shim.
SHIM := $(if $(findstring seuss,$(RUNTIME)),shim)

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

prepare:
	@e2e/scripts/prepare.sh cc ip nsenter unshare mount tar find git

build: shim harness ## build the shim, seussctl, the snapshotter and the harness

shim: prepare
	@echo "==> building the shim, seussctl and the snapshotter"
	$(CARGO) build --release --package seuss-shim --package seuss-snapshotter

guest: ## build the guest image fast, for work on it: run with SEUSS_KERNEL=target/guest-dev/release/seuss-image
	cd guest && CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_INCREMENTAL=true \
		$(CARGO) build --release --package seuss-image --target-dir ../target/guest-dev

harness: prepare
	@echo "==> building the harness"
	$(CARGO) build --package seuss-e2e

run: $(SHIM) harness ## run a pod of Debian's CPython on a private containerd (RUNTIME=seuss|runc|crun CONTAINERD=1.7|2.1)
	$(SUDO) target/debug/seuss-e2e-run --runtime $(RUNTIME) --containerd $(CONTAINERD)

test: prepare ## format, lints, unit, KVM, conformance and end-to-end tests; closes with "N passed, N failed, N skipped"
	@$(CARGO) build --quiet --package seuss-e2e --bin seuss-e2e-test
	@target/debug/seuss-e2e-test

images: prepare ## build the test images offline from Debian packages (target/e2e/images, target/e2e/rootfs)
	@$(CARGO) build --quiet --package seuss-e2e --bin seuss-e2e-setup
	$(SUDO) target/debug/seuss-e2e-setup images

tools: prepare ## fetch containerd 1.7 and 2.1, runc, crun and CNI plugins (unpacked below target/e2e, not installed)
	$(E2E) seuss-e2e-setup -- tools

bench: RUNTIMES ?= runc,crun,seuss
bench: build images ## run the benchmarks; writes target/bench/report.json (RUNS=25 RUNTIMES=runc,crun,seuss)
	$(SUDO) target/debug/seuss-bench --runs $(RUNS) --runtimes $(RUNTIMES) --containerd $(CONTAINERD)

soak: prepare ## 10,000 clones that must be distinct, 100,000 restores and exits that must leave nothing (half an hour)
	SEUSS_TEST_CLONES=10000 $(CARGO) test --release --package seuss-shim --test contract -- --nocapture any_number_of_clones_are_distinct
	SEUSS_SOAK_RESTORES=100000 $(CARGO) test --release --package seuss-shim --test soak -- --nocapture

conformance: build images ## run each conformance program, and CPython's test suite, on Linux and in the guest and compare
	cd guest/conformance && $(CARGO) run --quiet --bin seuss-conformance -- run
	cd guest/conformance && $(CARGO) run --quiet --bin seuss-conformance -- cpython

node: $(SHIM) harness ## a shell inside a private containerd with the shim (CONTAINERD=1.7|2.1); ends when the shell ends
	$(SUDO) target/debug/seuss-e2e-setup node --runtime $(RUNTIME) --containerd $(CONTAINERD)

fmt: ## format all sources
	$(CARGO) fmt --all
	cd guest && $(CARGO) fmt --all
	cd guest/conformance && $(CARGO) fmt --all

clean: ## remove everything that was built or fetched
	rm -rf target guest/target guest/conformance/target
