# make demo | make test | make bench: see README.md.
CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
export ONDOL_BIN := $(abspath $(TARGET))/release/ondol

.PHONY: setup build demo test check fresh tests unit e2e bench fuzz reference

setup: ## install what is missing, or say what to install
	@scripts/setup.sh $(SETUP)

build:
	$(CARGO) build --release --locked -p ondol

demo: SETUP = run
demo: setup build ## build, start the platform, walk the whole loop, leave it running until Ctrl-C
	@scripts/demo.sh

test: setup check build fresh tests ## the command that CI calls

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@scripts/tidy.sh

# One build for all tests: selecting fewer crates would compile their dependencies again.
tests: build
	ONDOL_REQUIRE_POSTGRES=1 ONDOL_REQUIRE_MLFLOW=1 ONDOL_REQUIRE_ENGINE=1 $(CARGO) test --workspace --locked

unit: ## everything but the end-to-end tests
	ONDOL_REQUIRE_POSTGRES=1 ONDOL_REQUIRE_ENGINE=1 $(CARGO) test --workspace --exclude ondol-testing --locked

fresh: build ## the generated pages are what the program says
	@scripts/fresh.sh

e2e: build ## the end-to-end tests alone
	ONDOL_REQUIRE_MLFLOW=1 $(CARGO) test -p ondol-testing --locked -- --test-threads=2

bench: build ## print our figures and the rivals' from the same run
	@scripts/bench.sh

fuzz: ## fuzz each parser of outside bytes for FUZZ_SECONDS (60); needs `cargo install cargo-fuzz`
	@scripts/fuzz.sh $(TARGETS)

reference: build ## write the generated pages of docs/
	$(ONDOL_BIN) reference cli > docs/cli.md
	$(ONDOL_BIN) reference configuration > docs/configuration.md
	$(ONDOL_BIN) reference openapi > docs/openapi.json
	$(ONDOL_BIN) schema > docs/ondol.schema.json
