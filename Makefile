# One command for each thing; CI runs `make test` and nothing else. docs/testing.md says what the numbers mean.

SHELL := /bin/bash
.DEFAULT_GOAL := help

SEEDS ?= 1..20001
KILLS ?= 200
ROUNDS ?= 100
NODES ?= 3
FAULT ?=
ONLY ?=
COMMANDS ?= 10000000
PLANTED = cargo test --locked --test mutants every_bug_that_fits_a_bound_is_found_there -- --ignored --nocapture

.PHONY: help tools fmt lint unit seeds test sim model tla mutants chaos lin geo long-run bench-failover bench-registry bench-proxy fuzz fuzz-keep deny

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-34s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

STAGES := tools fmt lint unit seeds deny

test: ## everything that must hold, as CI runs it; installs what it needs
	@mkdir -p target; export TERMGATE_NOT_TESTED="$(CURDIR)/target/not-tested"; : > "$$TERMGATE_NOT_TESTED"; \
	for stage in $(STAGES); do \
	  begin=$$SECONDS; $(MAKE) --no-print-directory $$stage || exit; \
	  times="$$times $$stage $$((SECONDS - begin)) s;"; \
	done; sort -u "$$TERMGATE_NOT_TESTED"; echo "all of it that was tested holds:$$times in all $$SECONDS s"

tools: ## install the programs that tests start (PostgreSQL, nginx, etcd, ...), when missing
	@scripts/tools

fmt: ## is the code formatted?
	cargo fmt --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check

lint: ## clippy over everything, and the links of the documentation; a warning is an error
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib

unit: ## all tests: units, scripts, simulator, real processes, real servers
	cargo test --locked

seeds: ## the simulator optimised, with enough seeds that every fault fires and matters
	cargo test --locked --release --test sim

deny: ## licences, bans, sources and known vulnerabilities of the dependencies
	@scripts/deny

sim: ## SEEDS=1..20001 GO_ON=1  the simulator over these seeds, past the first that fails
	SEEDS=$(SEEDS) cargo test --locked --profile campaign --test sim runs_many_seeds -- --ignored --nocapture

model: ## BOUND= MUTANTS= ONLY=  every state of the core within bounds, to the fixpoint; MUTANTS=1: bugs put back there
ifeq ($(MUTANTS),)
	BOUND="$(BOUND)" cargo test --locked --release --test exhaustive every_bound_reaches_its_fixpoint -- --ignored --nocapture
	$(if $(BOUND),,BOUND=quick $(PLANTED))
else
	BOUND="$(BOUND)" ONLY=$(ONLY) $(PLANTED)
endif

tla: ## SEEDS=1..51              the specification under TLC, which it installs, and traces of the simulator against it
	@SEEDS=$(if $(filter file,$(origin SEEDS)),,$(SEEDS)) scripts/tla

mutants: ## ONLY=M08a,N2a       known bugs, put back one at a time: is each found?
	ONLY=$(ONLY) cargo test --locked --test mutants every_known_bug_is_found -- --ignored --nocapture

chaos: tools ## ROUNDS=100 NODES=3 FAULT=      real processes through rounds of each fault
	ROUNDS=$(ROUNDS) NODES=$(NODES) FAULT=$(FAULT) cargo test --locked --release --test chaos campaign -- --ignored --nocapture --test-threads 1

lin: tools ## ROUNDS=100 FAULT=      registry clients through rounds of each fault, their histories judged
	ROUNDS=$(ROUNDS) FAULT=$(FAULT) cargo test --locked --release --test chaos rounds_of_registry_histories -- --ignored --nocapture

geo: ## commit and failover times of placements over regions, simulated
	cargo test --locked --test geo table -- --ignored --nocapture

long-run: ## COMMANDS=10000000      log, file and memory over so many commands; a follower a tenth of them behind
	COMMANDS=$(COMMANDS) cargo test --locked --release --test long_run -- --ignored --nocapture --test-threads 1
	COMMANDS=$(COMMANDS) cargo test --locked --release --test processes away:: -- --ignored --nocapture --test-threads 1

fuzz: ## SECONDS=60 TARGET=       every fuzz target for so long, guided by coverage
	@SECONDS_EACH=$(or $(SECONDS),60) TARGET=$(TARGET) scripts/fuzz run

fuzz-keep: ## TARGET=                  the smallest part of what was found becomes the kept corpus
	@TARGET=$(TARGET) scripts/fuzz keep

bench-failover: tools ## KILLS=200      time without a leader after a kill, next to etcd
	KILLS=$(KILLS) cargo bench --locked --bench failover

bench-registry: tools ## SECONDS=2 BENCH_ROUNDS=3   reads and writes of the registry, next to etcd
	cargo bench --locked --bench registry

bench-proxy: tools ## SECONDS=2 BENCH_ROUNDS=5      proxied requests, next to nginx
	cargo bench --locked --bench proxy
