# Two commands matter: `make book` and `make test`. Both set up .venv first, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup book test lint bench saes clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (about two minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench,book,test]"
	@touch $@

book: $(READY)
	@echo "Executing what changed, then rendering"
	@$(BIN)/saerepgeo book

test: $(READY) lint
	$(BIN)/python -m pytest -n 2 -m "not gpu" -p no:benchmark

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Time every stage, and fail if one got slower than in benchmarks/results/cpu.json.
# SHAPES="gemma" takes that shape, SHAPES="" all three.
SHAPES ?= not gemma
bench: $(READY)
	@mkdir -p _build
	BENCH_DEVICE=cpu $(BIN)/python -m pytest benchmarks/bench_stages.py -k "$(SHAPES)" \
		--benchmark-json=_build/bench.json
	$(BIN)/python -m benchmarks.compare _build/bench.json

# Train the shipped autoencoders again (needs WordNet: Debian's wordnet-base). Resumable.
saes: $(READY)
	$(BIN)/saerepgeo train

clean:
	rm -rf _build
