# Everything a user or developer runs; `make help` lists it. All Python packages go into .venv, all build output into build/.
# Stamp files in .venv say what is up to date, so that a second run does only what changed.
SHELL := /bin/sh
PYTHON ?= python3
ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check
# Tools of the package index (cmake, ninja) are found first.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
FUZZ_SECONDS ?= 30
CUDA_ARCHITECTURES ?= AUTO
# Folders are listed too: their time changes when a file is removed.
SOURCES := $(shell find CMakeLists.txt pyproject.toml cmake cpp $(wildcard cuda) py -name __pycache__ -prune -o -print)
CMAKE_TESTS := cmake -S . -G Ninja -DPAGODA_TESTS=ON -DPAGODA_WERROR=ON -DPython_EXECUTABLE=$(CURDIR)/$(PY)
# A file of tests stays in one process: its models are made once.
PYTEST = $(PY) -m pytest -q -n $(JOBS) --dist loadfile
CUDA_TARGETS := pagoda_cuda_device gpu_kernels_bench gpu_engine_bench _core
CMAKE_PYBIND = -Dpybind11_DIR="$$($(PY) -m pybind11 --cmakedir)"

.DELETE_ON_ERROR:
.PHONY: serve chat bench bench-peers bench-quality bench-gpu instructions test test-cpp test-cuda test-gpu test-python test-sanitize test-cuda-sanitize build-tests build-cuda fuzz lint format
.PHONY: clean help install

serve: $(VENV)/package.stamp  ## build, install and start the server on 127.0.0.1:8000 (ARGS="..." are its flags)
	@exec $(PY) -m enginectl serve $(ARGS)

chat: $(VENV)/package.stamp  ## talk to the model in the terminal
	@exec $(PY) -m enginectl chat $(ARGS)

bench: $(VENV)/package.stamp  ## measure speed on this machine
	@exec $(PY) bench/speed.py $(ARGS)

bench-peers: $(VENV)/package.stamp $(VENV)/bench.stamp  ## measure us and others by turns (ARGS="--setup llama.cpp", then "--peers llama.cpp")
	@exec $(PY) bench/peers/run.py $(ARGS)

bench-quality: $(VENV)/package.stamp $(VENV)/bench.stamp  ## perplexity and KL of us and llama.cpp against the f32 reference
	@exec $(PY) bench/quality.py $(ARGS)

install: $(VENV)/package.stamp  ## build and install into .venv

test: test-cpp test-cuda test-python  ## all tests that need no GPU

build-tests: $(VENV)/base.stamp
	@tools/prerequisites.sh $(PYTHON) gtest
	@tools/quietly.sh "configuring the C++ tests" $(CMAKE_TESTS) -B build/tests -DPAGODA_CUDA=OFF $(CMAKE_PYBIND)
	@tools/quietly.sh "building the C++ tests" cmake --build build/tests -j $(JOBS)

test-cpp: build-tests  ## C++ tests
	@echo "== running the C++ tests" && tools/run_ctest.sh build/tests $(JOBS) -LE cuda-emu

test-cuda: build-tests $(VENV)/package.stamp $(VENV)/test.stamp  ## CUDA kernels and engine, emulated on the CPU
	@echo "== running the CUDA tests under emulation" && tools/run_ctest.sh build/tests $(JOBS) -L cuda-emu
	@$(PYTEST) --dist worksteal tests/cuda_engine $(ARGS)

test-python: $(VENV)/package.stamp $(VENV)/test.stamp  ## Python and end-to-end tests
	@echo "== running the Python tests" && $(PYTEST) $(ARGS)

instructions: build-tests  ## compare the instructions of fixed steps with bench/instructions.json (needs valgrind)
	@$(PY) bench/instructions.py build/tests/step_instructions $(ARGS)

test-sanitize: $(VENV)/base.stamp  ## C++ tests under the address and undefined-behaviour sanitizers
	@tools/prerequisites.sh $(PYTHON) gtest
	@tools/quietly.sh "configuring with sanitizers" $(CMAKE_TESTS) -B build/asan -DPAGODA_PYTHON=OFF -DPAGODA_EMULATION=OFF \
	  -DPAGODA_SANITIZE=address,undefined
	@tools/quietly.sh "building with sanitizers" cmake --build build/asan -j $(JOBS)
	@echo "== running the C++ tests under sanitizers" && tools/run_ctest.sh build/asan $(JOBS)

test-cuda-sanitize: $(VENV)/base.stamp  ## the emulated CUDA tests under the same sanitizers
	@tools/prerequisites.sh $(PYTHON) gtest
	@tools/quietly.sh "configuring with sanitizers" $(CMAKE_TESTS) -B build/asan-cuda -DPAGODA_PYTHON=OFF \
	  -DPAGODA_SANITIZE=address,undefined
	@tools/quietly.sh "building with sanitizers" cmake --build build/asan-cuda -j $(JOBS)
	@echo "== running the CUDA tests under sanitizers" && tools/run_ctest.sh build/asan-cuda $(JOBS) -L cuda-emu

build-cuda: $(VENV)/base.stamp $(VENV)/cuda-check.stamp  ## compile the CUDA kernels with nvcc and check what came out; needs no GPU
	@tools/prerequisites.sh $(PYTHON) gtest
	@tools/quietly.sh "configuring with CUDA" $(CMAKE_TESTS) -B build/cuda -DPAGODA_CUDA=ON -DPAGODA_CUDA_ARCHITECTURES="$(CUDA_ARCHITECTURES)" $(CMAKE_PYBIND)
	@tools/quietly.sh "building with nvcc" cmake --build build/cuda -j $(JOBS) --target $(CUDA_TARGETS)
	@$(PY) tools/check_cuda.py build/cuda
	@$(PY) tools/check_without_gpu.py build/cuda

# In build/cuda: what the device tests and benchmarks are told of pip's CUDA libraries.
CUDA_LIBRARIES = $$($(PY) py/pagoda/cuda_libraries.py)
CUDA_RESULTS := bench/results/local

test-gpu: build-cuda $(VENV)/test.stamp  ## the device suite, the engine end to end and the sanitizer on a real GPU
	@echo "== running the tests on the GPU"
	@PAGODA_CUDA_LIBRARIES=$(CUDA_LIBRARIES) tools/run_ctest.sh build/cuda 1 -L gpu
	@PYTHONPATH=$$(tools/link_package.sh build/cuda) $(PY) -m pytest -q tests/cuda/device $(ARGS)
	@PAGODA_CUDA_LIBRARIES=$(CUDA_LIBRARIES) tests/cuda/device/sanitizer.sh build/cuda/tests/cuda/device/pagoda_cuda_device

bench-gpu: build-cuda  ## the device benchmarks and installed peers on a real GPU, into bench/results/local
	@mkdir -p $(CUDA_RESULTS)
	@commit=$$(git rev-parse HEAD 2>/dev/null || echo unknown); for bench in kernels engine; do \
	  build/cuda/bench/gpu/gpu_$${bench}_bench --commit=$$commit --libraries=$(CUDA_LIBRARIES) --out=$(CUDA_RESULTS)/$$bench.json \
	    $(ARGS) || exit; \
	done; $(PY) bench/gpu/peers.py --commit $$commit --out $(CUDA_RESULTS)/peers.json

fuzz: $(VENV)/package.stamp $(VENV)/fuzz.stamp  ## run every fuzzer on its corpus for FUZZ_SECONDS=30 (needs clang++)
	@tools/fuzz.sh $(PY) $(FUZZ_SECONDS) $(JOBS)

lint: $(VENV)/base.stamp $(VENV)/lint.stamp  ## floors, sizes, banned calls, ruff, mypy, clang-format
	@PY=$(PY) tools/lint.sh

format: $(VENV)/lint.stamp  ## format C++ and Python
	@$(PY) -m ruff check --quiet --fix-only . && $(PY) -m ruff format --quiet .
	@tools/cpp_files.sh | xargs -0 $(VENV)/bin/clang-format -i

clean:  ## remove .venv and all build output
	@rm -rf $(VENV) build dist

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1@\2/p' Makefile | awk -F@ '{ printf "%-22s %s\n", $$1, $$2 }'

# The build runs without pip's isolation, so that what pip would fetch for it must be there; that keeps paths stable and makes
# the next build incremental.
$(VENV)/base.stamp: pyproject.toml tools/requirements.py
	@tools/prerequisites.sh $(PYTHON)
	@test -x $(PY) || tools/quietly.sh "making $(VENV)" $(PYTHON) -m venv $(VENV)
	@tools/quietly.sh "installing the build tools and run-time packages" tools/install_base.sh $(PY)
	@touch $@

$(VENV)/package.stamp: $(VENV)/base.stamp $(SOURCES)
	@tools/quietly.sh "building and installing pagoda-engine (a few minutes the first time)" \
	  $(PIP) install --no-build-isolation --no-deps --force-reinstall --config-settings=build-dir=build/package .
	@touch $@

$(VENV)/test.stamp: $(VENV)/base.stamp
	@tools/quietly.sh "installing the test packages (torch among them: a large download)" tools/install_extra.sh $(PY) test
	@touch $@

$(VENV)/bench.stamp: $(VENV)/base.stamp
	@tools/quietly.sh "installing the packages of the f32 reference" tools/install_extra.sh $(PY) bench
	@touch $@

$(VENV)/fuzz.stamp: $(VENV)/base.stamp
	@tools/quietly.sh "installing the fuzzing packages" tools/install_extra.sh $(PY) fuzz
	@touch $@

$(VENV)/cuda-check.stamp: $(VENV)/base.stamp
	@tools/quietly.sh "installing the disassembler of CUDA code" tools/install_extra.sh $(PY) cuda-check
	@touch $@

$(VENV)/lint.stamp: $(VENV)/base.stamp
	@tools/quietly.sh "installing the lint packages" tools/install_extra.sh $(PY) lint
	@touch $@
