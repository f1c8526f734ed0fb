# Two commands on a bare machine with Python >= 3.11: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
DEMO := experiments/layer_cutoff

.PHONY: demo test lint wheel clean

demo: .venv/.runtime
	$(BIN)/saccade run layer_cutoff --out $(DEMO)

test: .venv/.dev
	$(BIN)/python -m pytest -q

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel, imported from a folder that holds nothing else.
wheel: .venv/.dev
	rm -rf dist build/wheel-check && mkdir -p build/wheel-check
	$(BIN)/pip wheel -q --no-deps -w dist .
	$(BIN)/pip install -q --no-deps --target build/wheel-check dist/saccade-*.whl
	cd build/wheel-check && PYTHONPATH=. ../../$(BIN)/python -I -c "import sys; sys.path.insert(0, '.'); \
	  import orchestrator.cli, workers.embedded.location as home; assert home.MODEL_DIR.is_dir(), home.MODEL_DIR; \
	  assert 'wheel-check' in orchestrator.cli.__file__; print('the wheel is whole')"

clean:
	rm -rf .venv build dist experiments *.egg-info

# constraints.txt holds the torch that is tested; without it pip takes the newest, with 3 GB of CUDA packages.
.venv/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Saccade needs Python 3.11 or newer; say which with: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.runtime
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
