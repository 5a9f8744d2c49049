# Everything sets itself up: `make demo` and `make test` work on a fresh machine with Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On plain x86_64 Linux the default index serves a CUDA build of torch. Pass the options that select the CPU
# build there, as the install page of pytorch.org gives them: make setup TORCH_ARGS="--index-url ..."
TORCH_ARGS ?=
READY := $(VENV)/.ready

.PHONY: help setup demo test test-slow check bench bench-binas format clean
help:
	@echo "make demo       the whole loop on this CPU: profile, search, train, export, run, compare (about five minutes)"
	@echo "make test       unit and end-to-end tests        make test-slow  the slower ones"
	@echo "make check      ruff, mypy, import contracts     make bench      export, LUT and pricing figures"
	@echo "make bench-binas  exact selection and accuracy estimators against their peers"

setup: $(READY)
$(READY): pyproject.toml constraints.txt tools/install.py
	$(PYTHON) tools/install.py $(VENV) $(TORCH_ARGS)
	@touch $(READY)

demo: $(READY)
	@mkdir -p demo
	@test -f demo/boardfit.toml || cp examples/digits/boardfit.toml demo/
	$(BIN)/boardfit run --project demo
	@echo "The project lies in demo/: change a budget in demo/boardfit.toml and run 'make demo' again."

test: $(READY)
	$(BIN)/python -m pytest -n 2 -m "not slow and not hardware"

# CP-SAT cross-checks the exact selection from an environment of its own; where it cannot be installed, that one
# test skips with the reason.
PEERS := $(VENV)/peers
$(PEERS)/.ready: constraints-peers.txt | $(READY)
	$(PYTHON) -m venv $(PEERS) && $(PEERS)/bin/pip install --quiet -c constraints-peers.txt ortools \
	  || echo "ortools cannot be installed here: its cross-check will be skipped"
	@touch $@

test-slow: $(READY) $(PEERS)/.ready
	BOARDFIT_ORTOOLS_PYTHON=$(CURDIR)/$(PEERS)/bin/python $(BIN)/python -m pytest -n 2 -m "slow and not hardware"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/bench.py

bench-binas: $(READY)
	$(BIN)/python benchmarks/bench_selection.py
	$(BIN)/python benchmarks/bench_estimators.py
	[ -z "$$BOARDFIT_DATA" ] || $(BIN)/python benchmarks/bench_ofa.py
	[ -z "$$BOARDFIT_DATA" ] || $(BIN)/python benchmarks/bench_nas_bench_macro.py

clean:
	rm -rf $(VENV) demo
