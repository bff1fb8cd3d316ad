# The commands of this repository. What they need and the machine lacks is installed first: the Rust
# toolchain of rust-toolchain.toml by rustup, other tools by the rules below, into the user's cache.

CARGO ?= cargo
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fathom/tools
CARGO_DENY := $(TOOLS)/cargo-deny-0.20.2
CARGO_FUZZ := $(TOOLS)/cargo-fuzz-0.13.2
# The sanitizer needs a nightly toolchain; nothing else is built with it.
FUZZ_TOOLCHAIN := nightly-2026-05-20
FUZZ_MANIFEST := tests/fuzz/Cargo.toml

# At how many moments the `power` target crashes the disks in every way.
FATHOM_CUTS ?= 400

# How many random histories each crash test of the `crash` target enumerates.
FATHOM_SEEDS ?= 200
# For how many seconds each target of `fuzz` runs.
FATHOM_FUZZ_SECONDS ?= 20

.PHONY: demo
demo: ## Build fathom, and show a node on a plain file: pool, volume, load, snapshot, clone
	$(CARGO) build --release --locked -p fathom-appliance
	tests/e2e/demo $${CARGO_TARGET_DIR:-target}/release/fathom

.PHONY: test
test: lint ## Check the form of the code, then run every test
	$(CARGO) test --workspace --locked

.PHONY: lint
lint: ## Check formatting and lints; any warning fails
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy -p fathom-test-conformance --all-targets --features guests --locked -- -D warnings

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: crash
crash: ## Enumerate crashes of the logical volume store with FATHOM_SEEDS seeds
	FATHOM_SEEDS=$(FATHOM_SEEDS) $(CARGO) test --release --locked -p fathom-test-sim

.PHONY: power
power: ## Cut the power of the store on real I/O at FATHOM_CUTS moments; needs FUSE
	FATHOM_CUTS=$(FATHOM_CUTS) $(CARGO) test --release --locked -p fathom-test-fuse -p fathom-test-power

.PHONY: guests
guests: ## Run the hosts of Linux kernels in QEMU guests against the target; prepares the guests first
	$(CARGO) build --release --locked -p fathom-appliance
	FATHOM_GUESTS="$$(tests/conformance/guest/prepare)" && export FATHOM_GUESTS && \
	for kernel in 6.1 6.12; do \
		FATHOM_KERNEL=$$kernel $(CARGO) test --release --locked -p fathom-test-conformance \
			--features guests --test guest || exit 1; \
	done

.PHONY: defects
defects: ## Plant defects in the store; each has to be found by the crash enumeration
	FATHOM_SEEDS=2000 $(CARGO) run --release --locked -p fathom-test-defects

.PHONY: miri
miri: ## Check the memory of the event loops under Miri, with a nightly toolchain
	$(CARGO) +nightly miri --version || rustup toolchain install nightly --profile minimal \
		--component miri --component rust-src
	MIRIFLAGS=-Zmiri-disable-isolation $(CARGO) +nightly miri test --locked -p fathom-runtime --lib

.PHONY: fuzz
fuzz: $(CARGO_FUZZ) ## Fuzz every decoder of the store and of NVMe/TCP for FATHOM_FUZZ_SECONDS each
	rustup toolchain list | grep -q '^$(FUZZ_TOOLCHAIN)-' || \
		rustup toolchain install $(FUZZ_TOOLCHAIN) --profile minimal
	$(CARGO) fmt --manifest-path $(FUZZ_MANIFEST) --check
	CARGO_FUZZ=$(CARGO_FUZZ)/bin/cargo-fuzz FUZZ_TOOLCHAIN=$(FUZZ_TOOLCHAIN) \
		tests/fuzz/run $(FATHOM_FUZZ_SECONDS)

.PHONY: deny
deny: $(CARGO_DENY) ## Check licenses, bans and sources of the dependencies
	$(CARGO_DENY)/bin/cargo-deny --locked --manifest-path $(FUZZ_MANIFEST) --config deny.toml \
		check licenses bans sources
	$(CARGO_DENY)/bin/cargo-deny --locked check licenses bans sources

# A tool's version is in its folder's name: a new version is a new folder. A build that fails
# leaves no folder of that name, so that it is tried again.
$(CARGO_DENY):
	rm -rf $@.partial
	$(CARGO) install cargo-deny --version $(patsubst cargo-deny-%,%,$(@F)) --locked --root $@.partial
	mv $@.partial $@

$(CARGO_FUZZ):
	rm -rf $@.partial
	$(CARGO) install cargo-fuzz --version $(patsubst cargo-fuzz-%,%,$(@F)) --locked --root $@.partial
	mv $@.partial $@

.PHONY: help
help: ## List these targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)
