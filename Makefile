# Every target makes what it needs: a virtual environment in .venv with pinned packages, and the native libraries.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch==2.13.0
OPTIONS ?=
# Packages are compiled as they are first imported (pip compiles all of them, minutes more), so Python has to keep that.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help bench test verify lint sanitize check-cu gpu gpu-rehearsal build clean

help:
	@echo "make bench     measure the kernels beside torch eager, torch.compile and kornia"
	@echo "make test      all tests on every backend that runs here"
	@echo "make verify    every operator against the float64 reference"
	@echo "make lint      ruff and clang-format"
	@echo "make sanitize  the C++ kernels under the address and undefined-behaviour sanitizers, on hostile input"
	@echo "make check-cu  compile the CUDA kernels with nvcc and look for spills"
	@echo "make gpu       on a GPU machine: build, check, measure and profile in ten minutes; needs no network"
	@echo "make gpu-rehearsal  the same script without a GPU"
	@echo "make clean     remove .venv and everything built"

.venv/.stamp: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) setuptools ninja pybind11 numpy
	STN_KERNELS_NO_NATIVE=1 $(PIP) --no-build-isolation --editable '.[test,bench,triton,train,lint]'
	@touch $@

build: .venv/.stamp
	@$(BIN)/stn-kernels build

bench: build
	$(BIN)/stn-kernels bench $(OPTIONS)

verify: build
	$(BIN)/stn-kernels verify $(OPTIONS)

TRITON_TESTS := $(addprefix tests/test_,affine_sample.py grid_sample.py samplers.py affine_grid.py homography_sample.py \
  homography_grid.py tps_sample.py tps_grid.py tps_volumes.py cpab_transform.py cpab_sample.py cpab_jacobian.py linearized.py)

# Triton interprets its kernels on the CPU only in a process that was started for it.
test: build
	$(BIN)/python -m pytest -n $(JOBS) tests --ignore tests/test_triton_interpreter.py $(OPTIONS)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n $(JOBS) --backends triton --only-backends $(TRITON_TESTS) $(OPTIONS)

lint: .venv/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror

sanitize: .venv/.stamp
	$(BIN)/python -m tests.sanitized

check-cu: .venv/.stamp
	$(BIN)/python -m tests.simt.check_cu

# These run on the packages of PYTHON as they are: a GPU machine may have no network.
gpu:
	$(or $(GPU_PYTHON),python3) -m benchmarks.gpu $(OPTIONS)

gpu-rehearsal: .venv/.stamp
	$(BIN)/python -m benchmarks.gpu --rehearsal $(OPTIONS)

clean:
	rm -rf .venv build *.egg-info stn_kernels/_lib .pytest_cache .ruff_cache .hypothesis .benchmarks
