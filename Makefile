PYTHON ?= python3
BIN = .venv/bin
DEMO = demo

.PHONY: install demo check test test-all bench gpu audit clean

install: .venv/installed

# tools/constraints.txt pins every version, so that everybody tests the same thing.
.venv/installed: pyproject.toml tools/constraints.txt
	@echo "Making .venv and installing into it: at the first time some minutes, mostly for torch."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check \
		-c tools/constraints.txt --editable '.[dev]'
	touch $@

$(DEMO)/data: | install
	$(BIN)/nectargan data synth $@ --train 100 --val 20 --size 128 --seed 0

demo: install $(DEMO)/data
	$(BIN)/nectargan-train -c configs/demo.json -d $(DEMO)/data -o $(DEMO)/runs
	$(BIN)/nectargan report '$(DEMO)/runs/*' -o $(DEMO)/report.html
	@echo "Open $(DEMO)/report.html in a browser: it shows all runs of the demo."

check: install
	$(BIN)/ruff format --check nectargan tests tools
	$(BIN)/ruff check nectargan tests tools
	$(BIN)/mypy
	$(BIN)/mypy --strict tools
	$(BIN)/python -m pytest -q tests/test_architecture.py
	@$(MAKE) --no-print-directory audit || echo "The audit found flaws, or could not be made."

# Known flaws of the pinned versions, as far as the index can be reached. It changes by the day, so
# it says what it finds and fails no check.
audit: .venv-audit/installed
	.venv-audit/bin/pip-audit -r tools/constraints.txt --no-deps --disable-pip --progress-spinner off

.venv-audit/installed:
	@echo "Installing pip-audit into .venv-audit."
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	touch $@

# One thread a worker: the tests are small, and threads of many workers only get in their way. Three
# workers on two cores, because many tests wait for a process or a server.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist loadgroup -m "not slow"

# With the tests that take many seconds each.
test-all: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist loadgroup

# Everything that a GPU is for as well: without one, its tests and rows are left out.
bench: install
	$(BIN)/python -m pytest -q -m gpu
	$(BIN)/python tools/bench_train.py --json bench_train.json
	$(BIN)/python tools/bench_logging.py --json bench_logging.json
	$(BIN)/python tools/bench_analysis.py --json bench_analysis.json
	$(BIN)/python tools/performance_page.py bench_train.json bench_logging.json bench_analysis.json

# On a machine with a GPU that may have no package index: with the Python that is there.
# docs/performance.md says which packages it must have.
gpu:
	$(PYTHON) tools/gpu_checks.py --json gpu_checks.json; \
	code=$$?; $(PYTHON) tools/performance_page.py gpu_checks.json; exit $$code

clean:
	rm -rf .venv .venv-audit $(DEMO) build *.egg-info
