# make demo   the main job on real images, ending with demo/report.html
# make test   all tests; makes .venv where there is none
# make lint   ruff and mypy
# make bench  the figures in docs/results, made again
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# a stamp per set of extras, newer than pyproject.toml once it is installed
$(VENV)/.demo: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train,demo]'
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench,ray,demo,docs,dev]'
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/blemish demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit tests/contract tests/reference tests/rules tests/robustness tests/real

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	cd src && ../$(BIN)/mypy -p blemish

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/aupro.py
	$(BIN)/python benchmarks/promise.py
	$(BIN)/python benchmarks/quality.py

clean:
	rm -rf $(VENV) .bench demo
