# `make` lists the targets.

.DEFAULT_GOAL := help
.PHONY: help demo test test-long attack lint fmt bench load setup db-reset sqlx-prepare

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: ## Run the service with an embedded database and sample traffic
	@scripts/setup
	@cargo run --quiet -- demo

test: ## Run all tests, against a real PostgreSQL
	@scripts/setup test
	@scripts/test

test-long: ## Run the tests with more cases and more crashes
	@scripts/setup test
	@NEXTEST_PROFILE=long VCB_CASES=2000 VCB_PROBES=100000 VCB_OPERATIONS=1000 VCB_CONSUMERS=20000 VCB_SERVICE_KILLS=1000 VCB_POSTGRES_KILLS=200 VCB_SLOW_CALL_SECS=65 VCB_TERMINATION_ROUNDS=20 VCB_DROPS=500 VCB_LARGE_EVENTS=600 VCB_IMPORTED=20000 VCB_TAB_STORMS=40 VCB_TAB_ROUNDS=40 scripts/test
	@cargo nextest run --features otlp --test it -E 'test(traces)'
	@scripts/fuzz
	@scripts/attack

attack: ## Attack a release build in 512 MB, with a customer and Stripe beside (GROUP=strangers|bodies|readers|pages|tenants|product|database)
	@scripts/setup test
	@scripts/attack $(GROUP)

lint: ## Check formatting, clippy's findings, and what is depended on
	cargo fmt --check
	cargo clippy --all-targets --workspace -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check; else echo "dependencies not checked: cargo install cargo-deny" >&2; fi

fmt: ## Format the code
	cargo fmt

bench: ## Measure beside pgbench on this machine (PART=intake|latency|processing|backlog|footprint|preview|quota|batches|gateway|state|outbox)
	@scripts/setup bench
	@cargo build --release --bin valuecanvas-billing --example naive_quota
	@scripts/bench $(PART)

load: ## Put load on a running service (BASE_URL, BILLING_API_KEY)
	@scripts/load-tests/run

setup: ## Install what demo and tests need
	@scripts/setup test

db-reset: ## Throw the embedded database away (DATA_DIR, .data by default)
	@scripts/db-reset

sqlx-prepare: ## Record the queries for the compile-time checks
	@scripts/setup
	@scripts/sqlx-prepare
