# `make help` says what there is. Options for a program go into ARGS: make demo ARGS='--clients 100'

TARGET := $(or $(CARGO_TARGET_DIR),target)
ARGS ?=

.PHONY: help demo test lint bench deb

help:
	@echo 'make demo    PostgreSQL (brought if there is none), pgferry in front of it, load and live numbers'
	@echo 'make test    set up what the tests need, then lints, a short fuzz run and all tests'
	@echo 'make lint    format, lints, documentation, licences'
	@echo 'make bench   pgferry against PgBouncer and a bare relay on the same work (see benches/load)'
	@echo 'make deb     the Debian package (brings cargo-deb if it is not installed, which takes some minutes)'
	@echo "Options for a program: make demo ARGS='--clients 100 --seconds 30'"

demo:
	@PG_BIN="$$(scripts/setup)" && export PG_BIN && exec cargo run --locked --release -- demo $(ARGS)

test:
	@PG_BIN="$$(scripts/setup --with-pgbouncer)" && export PG_BIN && exec scripts/test

lint:
	@scripts/lint

bench:
	@PG_BIN="$$(scripts/setup --with-pgbouncer)" && export PG_BIN && \
	cargo build --locked --release -p pgferry -p pgferry-load && \
	exec $(TARGET)/release/pgferry-load $(ARGS)

deb:
	@cargo deb --version >/dev/null 2>&1 || cargo install --locked cargo-deb
	@cargo deb --locked
