# make demo   the main job on real images, ending with demo/report.html
# make check  what is run all day: lint, types, rules, the quick tests
# make test   all tests; makes .venv where there is none
# make test-lowest  unit, contract and light tests with the oldest releases that are allowed
# make isa    the tests of engines, at each instruction set that this processor has
# make lint   ruff and mypy
# make wheel  source archive and wheel into dist/, checked
# make docs   the documentation into site/
# make backbone  the network that comes with the package, out of the weights that it was trained to
# make bench  the figures in docs/results, made again
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo check test test-lowest isa lint wheel docs bench backbone clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# a stamp per set of extras, newer than pyproject.toml once it is installed
$(VENV)/.demo: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench,ray,3d,ecg,demo,station,docs,dev,dist]'
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/blemish demo

# what is slow comes first: at the end both processors have something left
SUITE := tests/cluster tests/docs tests/browser tests/real tests/robustness tests/contract tests/unit tests/light tests/reference \
	tests/rules
PYTEST := $(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder

check: lint
	BLEMISH_TESTS=quick $(PYTEST) -q -m "not slow and not learns" tests/unit tests/light tests/rules

test: $(VENV)/.dev
	$(PYTEST) $(SUITE)

isa: $(VENV)/.dev
	$(BIN)/python -m tests.isa -n auto --dist loadgroup tests/contract tests/unit

$(VENV)-lowest/.dev: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check \
		-c tests/lowest.txt -e '.[train,bench,3d,ecg,dev]'
	touch $@

test-lowest: $(VENV)-lowest/.dev
	$(VENV)-lowest/bin/python -m pytest -n auto --dist loadgroup -m "not learns" tests/unit tests/contract tests/light

wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/ruff format --check src tests benchmarks scripts
	cd src && ../$(BIN)/mypy -p blemish
	cd benchmarks && ../$(BIN)/mypy -p worlds

docs: $(VENV)/.dev
	$(BIN)/python -m blemish.cli.reference > docs/cli.md
	$(BIN)/python -m blemish.cli.reference options > docs/options.md
	$(BIN)/python -m blemish.cli.method_tables README.md docs/methods/index.md
	$(BIN)/python -m mkdocs build --strict

backbone: $(VENV)/.dev
	$(BIN)/python scripts/make_backbone.py

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/training_format.py
	$(BIN)/python benchmarks/number_format.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/aupro.py
	$(BIN)/python benchmarks/exactly_once.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/blemish bench benchmarks/ledger.toml --out .bench/ledger --page docs/ledger.md
	$(BIN)/python benchmarks/same_cells.py
	$(BIN)/blemish bench benchmarks/variants.toml --out .bench/variants --page docs/variants.md
	$(BIN)/blemish bench benchmarks/backbones.toml --out .bench/backbones --page docs/backbones.md --known docs/ledger
	$(BIN)/blemish bench benchmarks/ablations.toml --out .bench/ablations --page docs/ablations.md
	$(BIN)/blemish bench benchmarks/several.toml --out .bench/several --page docs/several.md
	$(BIN)/blemish bench benchmarks/several_ablations.toml --out .bench/several_ablations \
		--page docs/several_ablations.md
	$(BIN)/blemish bench benchmarks/strength.toml --out .bench/strength --page docs/strength.md
	$(BIN)/python benchmarks/held_out.py
	$(BIN)/python benchmarks/heads.py
	$(BIN)/python benchmarks/unknown.py
	$(BIN)/python benchmarks/categories.py
	$(BIN)/python benchmarks/logical.py
	$(BIN)/python benchmarks/places.py
	$(BIN)/python benchmarks/attenuation.py --page docs/results/attenuation.md
	$(BIN)/python benchmarks/clouds.py --page docs/results/clouds.md
	$(BIN)/python benchmarks/heartbeats.py --task morphology ectopic --folds 4 --protocols A --seeds 0 1 2 \
		--page docs/results/heartbeats.md
	$(BIN)/python benchmarks/promise.py
	$(BIN)/python benchmarks/ranks.py
	$(BIN)/python benchmarks/ranks.py --frozen
	$(BIN)/python benchmarks/made_defects.py
	$(BIN)/python -m benchmarks.station_drift
	$(BIN)/python benchmarks/surface3d.py --page docs/results/surface3d.md
	$(BIN)/blemish bench benchmarks/choices.toml --out .bench/choices
	$(BIN)/blemish bench benchmarks/rates.toml --out .bench/rates

clean:
	rm -rf $(VENV) $(VENV)-lowest .bench demo dist site
