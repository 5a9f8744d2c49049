# Everything sets itself up: `make demo` and `make test` work on a fresh machine with Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On plain x86_64 Linux the default index serves a CUDA build of torch. Pass the options that select the CPU
# build there, as the install page of pytorch.org gives them: make setup TORCH_ARGS="--index-url ..."
TORCH_ARGS ?=
READY := $(VENV)/.ready

.PHONY: help setup debian demo docs test test-slow check bench bench-binas bench-connas bench-kernels bench-ram bench-board bench-linux motor-quick report-picture format clean test-arm64
help:
	@echo "make demo       the whole loop on a virtual board: profile, search, train, export, deploy, compare (minutes)"
	@echo "make motor-quick  condition monitoring of motors: simulated data, search, a virtual STM32G0 (under ten minutes)"
	@echo "make test       unit and end-to-end tests        make test-slow  the slower ones"
	@echo "make test-arm64 the way over SSH to an emulated aarch64 board (makes its user land: 230 MB in the cache folder)"
	@echo "make check      ruff, mypy, import contracts     make bench      export, LUT and pricing figures"
	@echo "make bench-binas  exact selection and accuracy estimators against their peers"
	@echo "make bench-connas  gradient search on NATS-Bench beside loss-based methods (BOARDFIT_DATA: folder of its tables)"
	@echo "make bench-kernels  cycles per MAC of the firmware's kernels    make bench-board  tables and predictions on a virtual board"
	@echo "make bench-ram  arenas with kernels in place and in patches, and what that costs"
	@echo "make report-picture  the demo's report as docs/pictures/report.png (needs Chromium)"
	@echo "make docs       the manual as a site, in site/"
	@echo "make bench-linux  sums of operators against networks on a Linux board (BOARD=ssh://...), else on loopback"
	@echo "make debian     optional: ARM GCC, QEMU and flashing tools from Debian (as root); pip alone is enough without them"

setup: $(READY)
$(READY): pyproject.toml constraints.txt tools/install.py
	$(PYTHON) tools/install.py $(VENV) $(TORCH_ARGS)
	@touch $(READY)

# A second compiler, a second emulator and the tools that real boards need. Nothing depends on it: what is missing is
# skipped by the tests, with the reason.
DEBIAN := gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm stm32flash openocd stlink-tools openssh-server chromium
debian:
	@if ! command -v apt-get >/dev/null; then echo "skipped: no apt-get here ($(DEBIAN))"; \
	elif [ "$$(id -u)" != 0 ]; then echo "skipped: needs root (sudo make debian): $(DEBIAN)"; \
	elif dpkg-query -W -f '$${Status}\n' $(DEBIAN) 2>/dev/null | grep -c 'ok installed' | grep -qx $(words $(DEBIAN)); then \
	  echo "already installed: $(DEBIAN)"; \
	else { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN) >/dev/null; } \
	  || echo "skipped: Debian's packages cannot be had here ($(DEBIAN))"; fi

# Condition monitoring from simulated data to a virtual STM32G0 (docs/motor.md).
motor-quick: $(READY)
	@mkdir -p motor
	@test -f motor/boardfit.toml || cp examples/motor/boardfit.toml motor/
	$(BIN)/python examples/motor/simulator.py motor/motor.npz
	$(BIN)/boardfit run --project motor

demo: $(READY)
	@mkdir -p demo
	@test -f demo/boardfit.toml || cp examples/digits/boardfit.toml demo/
	$(BIN)/boardfit run --project demo
	@echo "The project lies in demo/: change a budget in demo/boardfit.toml and run 'make demo' again."

# The report's picture in the manual, from the demo's project.
report-picture: demo
	$(BIN)/python tools/report_picture.py demo/results/report.html docs/pictures/report.png

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

# Opt-in: takes Debian's sources and two minutes. BOARDFIT_ARM64 says where the aarch64 user land is kept.
BOARDFIT_ARM64 ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/boardfit/arm64
test-arm64: $(READY)
	$(BIN)/python tools/arm64_rootfs.py "$(BOARDFIT_ARM64)"
	BOARDFIT_ARM64="$(BOARDFIT_ARM64)" $(BIN)/python -m pytest tests/targets/ssh/test_arm64.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The manual's tool is installed at its first use: nothing else needs it.
$(VENV)/.docs: pyproject.toml constraints.txt | $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --nitpicky docs site
	@echo "The manual: site/index.html"

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/bench.py

# A real sshd on loopback; BOARD=ssh://pi@raspberrypi.local measures a board instead.
bench-linux: $(READY)
	$(BIN)/python benchmarks/bench_linux.py $(if $(BOARD),--target '$(BOARD)')
	$(BIN)/python benchmarks/bench_predictor.py

bench-binas: $(READY)
	$(BIN)/python benchmarks/bench_selection.py
	$(BIN)/python benchmarks/bench_estimators.py
	[ -z "$$BOARDFIT_DATA" ] || $(BIN)/python benchmarks/bench_ofa.py
	[ -z "$$BOARDFIT_DATA" ] || $(BIN)/python benchmarks/bench_nas_bench_macro.py

bench-connas: $(READY)
	$(BIN)/python -m benchmarks.bench_connas

bench-kernels: $(READY)
	$(BIN)/python benchmarks/bench_kernels.py

bench-ram: $(READY)
	$(BIN)/python benchmarks/bench_ram.py

bench-board: $(READY)
	$(BIN)/python benchmarks/bench_board.py

clean:
	rm -rf $(VENV) demo site
