# Ebb: `make` alone explains itself. Every target does its own set-up first.

CARGO   ?= cargo
TARGET  := x86_64-unknown-none
# The init program of Linux guests is static.
MUSL    := x86_64-unknown-linux-musl
# The two programs that run without an operating system; all other crates build for the host.
BARE    := -p ebb-hypervisor -p ebb-guest
NOTBARE := --workspace --exclude ebb-hypervisor --exclude ebb-guest
OUT     ?= out
# Options for the tool or the test runner: make run ARGS='--cpus 4', make test-machine ARGS='hypercalls'.
ARGS    ?=

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
EBB        := $(TARGET_DIR)/debug/ebb
EBB_TESTS  := $(TARGET_DIR)/debug/ebb-tests

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup build run bench bench-tmem experiment iso test test-full check test-host test-machine test-checked doc miri clean

help: ## Explain the targets (what you are reading)
	@echo 'Ebb, a Type-1 micro-hypervisor for x86-64 with the Xen ABI. Targets:'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r t d; do printf '%-22s %s\n' "  $$t" "$$d"; done
	@echo
	@echo 'Options for the tool or the test runner go into ARGS, for instance'
	@echo "  make run ARGS='--cpus 4 --deterministic'      make test-machine ARGS='hypercalls'"
	@echo 'Start with: make run'

setup: ## Install what is missing (Debian packages, Rust targets); quick when all is there
	@sh tools/setup.sh

build: setup ## Build the hypervisor, the guest, the ebb tool and the test runner
	@$(CARGO) build --release --target $(TARGET) $(BARE)
	@$(CARGO) build --release --target $(MUSL) -p ebb-linux-init
	@$(CARGO) build -p ebb-tools -p ebb-tests

run: build ## Watch memory move between a Linux and Rust guests; results land in out/
	@$(EBB) run --out $(OUT) $(ARGS)

bench: build ## Measure the hypercalls in instructions, beside Xen's figures
	@$(EBB) bench --out $(OUT) $(ARGS)

bench-tmem: setup ## Measure the transcendent-memory store on this machine, beside memcpy and LZ4
	@$(CARGO) bench -p ebb-tmem --bench store

experiment: build ## Memory divided in four ways; ARGS=locks for locks under overcommit; tables and plots in out/
	@$(EBB) experiment $(or $(ARGS),tmem) --out $(OUT)

iso: build ## Write out/ebb.iso, bootable by BIOS and UEFI, from a disc or a USB stick
	@mkdir -p $(OUT)
	@$(EBB) iso --output $(OUT)/ebb.iso $(ARGS)

test: check test-host test-machine ## Everything that must pass before a change lands

test-full: check test-host miri build test-checked ## make test with the whole matrix of machines, with all assertions too, and miri
	@$(EBB_TESTS) --full $(ARGS)

test-checked: build ## Whole-machine tests of a hypervisor with all its assertions (lock order, overflows)
	@$(CARGO) build --profile checked --target $(TARGET) -p ebb-hypervisor
	@EBB_HYPERVISOR=$(TARGET_DIR)/$(TARGET)/checked/ebb-hypervisor $(EBB_TESTS) $(ARGS)

check: setup ## Formatting and lints only
	@$(CARGO) fmt --check
	@$(CARGO) clippy $(NOTBARE) --all-targets -- -D warnings
	@$(CARGO) clippy --release --target $(TARGET) $(BARE) -- -D warnings

test-host: setup ## Unit and property tests on this machine, no emulator
	@$(CARGO) test $(NOTBARE)
	@if [ -f hypervisor/src/lib.rs ]; then $(CARGO) test -p ebb-hypervisor --lib; fi
	@if [ -f guest/kernel/src/lib.rs ]; then $(CARGO) test -p ebb-guest --lib; fi

test-machine: build ## Whole-machine tests in QEMU
	@$(EBB_TESTS) $(ARGS)

# The documentation is for those who work on the code: links to private items are wanted.
doc: export RUSTDOCFLAGS += -A rustdoc::private_intra_doc_links
doc: setup ## Build the API documentation into target/doc
	@$(CARGO) doc --no-deps --document-private-items $(NOTBARE)
	@$(CARGO) doc --no-deps --document-private-items --target $(TARGET) $(BARE)
	@echo 'Read docs/README.md first; the API is in $(TARGET_DIR)/doc/shared_abi/index.html'

# What has unsafe code, or tests whose machine has (docs/tests.md). Fake machines leak what a kernel keeps for ever.
miri: export MIRIFLAGS = -Zmiri-ignore-leaks
miri: setup ## Run the host-testable unsafe code under miri, when a nightly with miri is there
	@if cargo +nightly miri --version >/dev/null 2>&1; then \
	    cargo +nightly miri test -p ebb-guest-hypercall --lib && \
	    cargo +nightly miri test -p ebb-mutex --test host && \
	    cargo +nightly miri test -p ebb-locks --test crowd && \
	    cargo +nightly miri test -p ebb-tmem --lib --test threads --test meddling --test model && \
	    cargo +nightly miri test -p ebb-core --lib -- parallel; \
	else echo 'miri: skipped, no nightly toolchain with miri (rustup +nightly component add miri)'; fi

clean: ## Remove everything that was built or written
	@$(CARGO) clean
	@rm -rf $(OUT)
