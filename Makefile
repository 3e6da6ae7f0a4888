# One virtual environment, .venv, filled step by step: each stamp file in it says "these extras are in", and is
# renewed only when pyproject.toml or constraints.txt changes. The package is installed editable, so source edits
# need no reinstall. Written for GNU make 3.81 (the one macOS ships) and any POSIX shell.
#
# Another interpreter: make PYTHON=python3.12 demo

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
PINS := pyproject.toml constraints.txt
# The interpreters tried, in this order, when PYTHON is not given.
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11
IS_SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))
NO_FRAMEWORKS := the frameworks need python 3.11 or 3.12; `make clean`, then `make PYTHON=python3.12 test-frameworks`
HAS_FRAMEWORKS := import sys; sys.exit("$(NO_FRAMEWORKS)" if sys.version_info >= (3, 13) else 0)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-unit test-frameworks lint bench clean

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo ## train two classifiers, serve them behind one endpoint, measure, stop
	@$(PY) examples/demo.py

test: $(VENV)/.test ## run every test
	@$(PY) -m pytest $(ARGS)

test-unit: $(VENV)/.test ## run the tests that need neither Ray nor sockets
	@$(PY) -m pytest tests/unit $(ARGS)

test-frameworks: $(VENV)/.frameworks ## run the examples with scikit-learn, ONNX Runtime, PyTorch and TensorFlow
	@$(PY) -m pytest tests/frameworks $(ARGS)

lint: $(VENV)/.lint ## ruff, mypy and the import contracts
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/.bench ## measure against bare uvicorn and gunicorn (needs wrk)
	@$(PY) -m benchmarks $(ARGS)

clean: ## remove the environment, build products and caches
	rm -rf $(VENV) build dist src/*.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/.demo: EXTRAS := examples
$(VENV)/.test: EXTRAS := examples,test
$(VENV)/.lint: EXTRAS := examples,test,lint
$(VENV)/.bench: EXTRAS := bench

$(VENV)/.demo $(VENV)/.test $(VENV)/.lint $(VENV)/.bench: $(VENV)/.made $(PINS)
	@echo "installing rayserve[$(EXTRAS)] into $(VENV); the first time this downloads about 150 MB"
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

# On Linux, PyPI's torch brings gigabytes of CUDA. For the build without:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test-frameworks
$(VENV)/.frameworks: $(VENV)/.made $(PINS) constraints-frameworks.txt
	@$(PY) -c '$(HAS_FRAMEWORKS)'
	@echo "installing rayserve[examples,test,frameworks] into $(VENV); the first time this downloads about 750 MB"
	@$(PIP) install --quiet --constraint constraints.txt --constraint constraints-frameworks.txt \
	  --editable '.[examples,test,frameworks]'
	@touch $@

$(VENV)/.made:
	@set -e; chosen=''; \
	for candidate in $(or $(PYTHON),$(PYTHONS)); do \
	  if "$$candidate" -c '$(IS_SUPPORTED)' 2>/dev/null; then chosen="$$candidate"; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "rayserve needs python 3.11 to 3.14; tried: $(or $(PYTHON),$(PYTHONS))" >&2; \
	  echo "install one of them, or name it: make PYTHON=/path/to/python3.12 $(or $(MAKECMDGOALS),demo)" >&2; \
	  exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$chosen" --version)"; \
	"$$chosen" -m venv $(VENV)
	@touch $@
