# Everything a person types here. `make quickstart` needs Rust and this file; the rest it asks Debian for.

TARGET := $(or $(CARGO_TARGET_DIR),target)
ARGS ?=

.PHONY: help quickstart build test test-long test-sdk test-openapi fuzz deny check lint fmt docs bench deps deps-test

help:
	@echo "make quickstart   build, then stream a first answer through the proxy and keep serving (ARGS=--once: exit after it)"
	@echo "make build        the release program: $(TARGET)/release/llm-proxy"
	@echo "make test         every test, with a private PostgreSQL and Redis"
	@echo "make test-long    the same, with the long form of those that have one (minutes more)"
	@echo "make test-sdk     the unmodified openai and anthropic packages against the program"
	@echo "make test-openapi the management API against its description, by schemathesis (BUDGET=60 seconds)"
	@echo "make deny         licences, advisories, bans and sources of all dependencies, by cargo-deny"
	@echo "make fuzz         mutated inputs at every reader of what strangers send, ten minutes each (BUDGET=600 seconds)"
	@echo "make check        formatting, lints and documentation, as before each landing"
	@echo "make lint | fmt   lints alone | format the sources"
	@echo "make bench        the benchmarks: parts alone, then end to end against a bare Pingora (3 minutes)"
	@echo "make deps         what building needs (cmake, a C compiler); deps-test: what testing needs besides"

quickstart: build
	@exec "$(TARGET)/release/llm-proxy" quickstart $(ARGS)

build: deps
	cargo build --release --locked

test: deps-test
	cargo fetch --locked
	cargo test --locked

test-long: deps-test
	cargo fetch --locked
	LLM_PROXY_TEST_LONG=1 cargo test --locked

test-sdk: deps
	cargo build --locked
	@.ci/install-missing python3 python3-venv
	python3 -m venv "$(TARGET)/sdk"
	"$(TARGET)/sdk/bin/pip" install --quiet --disable-pip-version-check openai anthropic
	@if command -v npm >/dev/null; then npm install --silent --no-fund --no-audit --prefix "$(TARGET)/sdk-node" openai >/dev/null; fi
	SDK_NODE="$$(command -v npm >/dev/null && echo "$(TARGET)/sdk-node")" \
		"$(TARGET)/sdk/bin/python" tests/sdk/run.py "$(TARGET)/debug/llm-proxy"

# Advisories come from the network; without it licences, bans and sources are still held by `make test`.
deny: deps
	@cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	cargo deny check

# Two at a time, on as many cores.
fuzz: deps
	FUZZ_SECONDS=$(or $(BUDGET),600) cargo test --locked --profile fuzz --test fuzz -- --test-threads 2 --nocapture

# Without PyPI there is no schemathesis: said, and no reason to fail.
test-openapi: deps
	cargo build --locked
	@.ci/install-missing python3 python3-venv
	python3 -m venv "$(TARGET)/openapi"
	@if "$(TARGET)/openapi/bin/pip" install --quiet --disable-pip-version-check schemathesis; then \
		"$(TARGET)/openapi/bin/python" tests/openapi/run.py "$(TARGET)/debug/llm-proxy" $(or $(BUDGET),60); \
	else \
		echo "PyPI cannot be reached: the management API was NOT checked against its description"; \
	fi

check: deps
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

lint: deps
	cargo clippy --locked --all-targets -- -D warnings

fmt:
	cargo fmt

docs: deps
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --open

bench: deps
	cargo bench --locked
	benches/e2e/run

deps:
	@.ci/install-missing cmake cc

deps-test:
	@.ci/install-missing cmake cc postgresql redis-server openssl setpriv
