# Two commands on a bare machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
# The build of torch: cuda where this machine has an NVIDIA driver, else cpu.
TORCH ?= $(shell { command -v nvidia-smi || test -e /proc/driver/nvidia/version; } >/dev/null 2>&1 && echo cuda || echo cpu)
BIN := .venv/bin
DEMO := experiments/layer_cutoff
LOCKS := orchestrator/locks
INSTALL := -m pip install -q --disable-pip-version-check
LOCKED := $(INSTALL) --no-deps --require-hashes
# A process per core, as far as eight of them have enough to do.
AT_ONCE := -n $(shell $(PYTHON) -c "import os; print(min(8, os.cpu_count() or 1))")

# Tests start many processes, and each would compile our modules anew where the machine keeps no bytecode.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-systems test-all fuzz docs site lint wheel dist lock test-newest test-oldest clean

demo: .venv/.runtime
	$(BIN)/saccade run layer_cutoff --out $(DEMO)

test: .venv/.dev
	$(BIN)/python -m pytest -q $(AT_ONCE) $(PYTEST_ARGS)

# Submitted jobs, SLURM, autoscaling, killed drivers: minutes of waiting for processes, one after the other.
test-systems: .venv/.dev
	$(BIN)/python -m pytest -q -m system

# What claims a duration runs alone.
test-all: test test-systems
	$(BIN)/python -m pytest -q -m timing

# Damaged files of each kind, twenty times as many as in the tests, and others each time: a quarter of an hour.
fuzz: .venv/.dev
	$(BIN)/python -m pytest -q tests/test_fuzz_files.py --hypothesis-profile=long --timeout=3600 $(PYTEST_ARGS)
	$(BIN)/python -m pytest -q tests/test_workers_engine.py tests/test_workers_waves.py tests/test_workers_questions.py \
	  -k test_any --hypothesis-profile=long --timeout=36000 $(PYTEST_ARGS)

# The tables of strategies and benchmarks in docs/, from the catalogs.
docs: .venv/.dev
	$(BIN)/python -m orchestrator.listing

# The documentation as pages, build/site: strictly, and without a network.
site: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel, imported from a folder that holds nothing else.
wheel: .venv/.dev
	rm -rf dist build/wheel-check && mkdir -p build/wheel-check
	$(BIN)/pip wheel -q --no-deps --no-build-isolation -w dist .
	$(BIN)/pip install -q --no-deps --target build/wheel-check dist/saccade-*.whl
	cd build/wheel-check && PYTHONPATH=. ../../$(BIN)/python -I -c "import sys; sys.path.insert(0, '.'); \
	  import orchestrator.cli, workers.embedded.location as home; assert home.MODEL_DIR.is_dir(), home.MODEL_DIR; \
	  assert 'wheel-check' in orchestrator.cli.__file__; \
	  import orchestrator.doctor as doctor; assert doctor.tested_versions()['torch']; print('the wheel is whole')"

# What a release holds: the wheel, and the sources as an archive.
dist: wheel
	$(BIN)/python -c "import setuptools.build_meta as build; build.build_sdist('dist')"

# Every version and hash that is installed below, anew: TORCH_VERSION=2.14.0 moves torch too.
lock: .venv-lock/.uv
	.venv-lock/bin/python .ci/lock.py $(TORCH_VERSION)

# What pyproject.toml admits besides the lock: the newest of today, and the oldest. With TORCH=cpu the newest keeps the
# lock's torch, for PyPI, where the others are looked for, has builds for CUDA.
test-newest:
	$(call environment,--clear .venv-newest)
	$(if $(filter cpu,$(TORCH)),.venv-newest/bin/python $(LOCKED) -r $(LOCKS)/torch-cpu.txt)
	.venv-newest/bin/python $(INSTALL) -e '.[dev]'
	.venv-newest/bin/python -m pytest -q $(AT_ONCE) $(PYTEST_ARGS)

test-oldest: .venv-lock/.uv
	$(call environment,--clear .venv-oldest)
	.venv-lock/bin/uv pip compile -q pyproject.toml --extra dev --resolution lowest-direct --only-binary :all: \
	  --python .venv-oldest/bin/python -o .venv-oldest/oldest.txt
	$(if $(filter cpu,$(TORCH)),.venv-oldest/bin/python $(INSTALL) --no-deps -c .venv-oldest/oldest.txt torch \
	  --index-url https://download.pytorch.org/whl/cpu)
	.venv-oldest/bin/python $(INSTALL) -c .venv-oldest/oldest.txt -e '.[dev]'
	.venv-oldest/bin/python -m pytest -q -W ignore::DeprecationWarning $(AT_ONCE) $(PYTEST_ARGS)  # old libraries among new ones

clean:
	rm -rf .venv .venv-* build dist experiments *.egg-info

define environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "Saccade needs Python 3.11 or newer; say which with: make PYTHON=python3.12 ..."; exit 2; }
$(PYTHON) -m venv $(1)
endef

.venv/.made:
	$(call environment,.venv)
	@touch $@

# Torch by itself, for it comes from an index of its own; its other build, if there is one, goes first.
.venv/.torch-$(TORCH): $(LOCKS)/torch-$(TORCH).txt | .venv/.made
	@rm -f .venv/.torch-*
	$(BIN)/python $(LOCKED) --force-reinstall -r $<
	@touch $@

.venv/.runtime: $(LOCKS)/runtime.txt pyproject.toml .venv/.torch-$(TORCH)
	$(BIN)/python $(LOCKED) -r $<
	$(BIN)/python $(INSTALL) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	@touch $@

.venv/.dev: $(LOCKS)/dev.txt .venv/.runtime
	$(BIN)/python $(LOCKED) -r $<
	$(BIN)/python -m pip check
	@touch $@

.venv/.docs: $(LOCKS)/docs.txt .venv/.dev
	$(BIN)/python $(LOCKED) -r $<
	$(BIN)/python -m pip check
	@touch $@

.venv-lock/.uv:
	$(call environment,.venv-lock)
	.venv-lock/bin/python $(INSTALL) uv==0.13.9
	@touch $@
