# Everything here makes its own .venv first: Python 3.11 or newer and make are all it takes.

# Newest first. `make newest` tests the first that is found.
PYTHONS := python3.14 python3.13 python3.12 python3.11

VENV := .venv
BIN := $(VENV)/bin

# `make test-cuda ENV=here` and `make bench-cuda ENV=here`: with the Python that is there, which has fastopt
# and numba-cuda installed, not with .venv.
ON_GPU = $(if $(filter here,$(ENV)),$(or $(PYTHON),python3),$(BIN)/python)
FOR_GPU = $(if $(filter here,$(ENV)),,$(VENV)/.cuda-test)

INSTALLED := $(VENV)/.installed

# The suites keep compiled code to themselves: the user's cache folder is not theirs to fill. What one has
# compiled, the others find. `make test` begins with nothing compiled. Waiting threads sleep: there are more of them
# than cores, and those of PyTorch come on top.
CACHE := $(CURDIR)/build/cache
COMPILED := FASTOPT_CACHE_DIR=$(CACHE)/compiled NUMBA_CACHE_DIR=$(CACHE)/compiled OMP_WAIT_POLICY=passive
INTERPRETED := FASTOPT_CACHE_DIR=$(CACHE)/interpreted NUMBA_CACHE_DIR=$(CACHE)/interpreted NUMBA_DISABLE_JIT=1

# What `make test` leaves to `make interop`, `mpi`, `docs` and `cuda-code`, even where those libraries are
# installed.
OWN := $(addprefix --ignore=tests/,interop mpi pages test_cuda_code.py test_cuda_numpy.py test_cuda_registers.py)

# What is tested in processes of its own. It runs beside the compiled suite, which takes as long as all else.
PROCESSES := $(addprefix tests/test_,cache.py cache_users.py fuzz.py identity_kernels.py identity_package.py \
    interruption.py targets.py threads.py workqueue.py)

# What no version of Python, NumPy, Numba or SciPy changes, left out where others are tried: who may use the
# cache, what the repository holds beside the package, random cases, long trainings. Of the cases of a test they
# run a third: another one each, all of which the suite of `make test` has run.
ANYWHERE := $(addprefix --ignore=tests/test_,bench.py cache_users.py dialect_tables.py fuzz.py imports.py low_precision.py page_numbers.py)

# What runs on a device of any kind, and what of it Numba's simulator can do.
CUDA_LOGIC := $(addprefix tests/test_cuda,.py _blocks.py _norm.py _state.py _errors.py)
CUDA_SUMS := $(addprefix tests/test_cuda,_sums.py _sums_after.py _stats.py _launch.py _gradients.py _moved.py _fuzz.py _streams.py _graphs.py _captures.py)
CUDA := $(CUDA_LOGIC) $(addprefix tests/test_cuda,_copies.py _traffic.py _arrays.py _elsewhere.py _pieces.py _fast.py _page.py _numpy.py _cache.py _bench.py) tests/test_identity_cuda.py
EMULATOR := ../shared/gpu-emulator/run

# What runs at the same time prints its lines when it is through; make before 4.0 mixes them.
TOGETHER := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

define emulated
@if [ -x $(EMULATOR) ]; then \
    $(COMPILED) $(EMULATOR) $(BIN)/python -m pytest -q $(1); \
else \
    echo "skipped: no emulator at $(EMULATOR)"; \
fi
endef

heading = @printf '\n== %s\n' "$(1)"

.DEFAULT_GOAL := help
NEEDED := $(addprefix $(VENV)/.,cuda-test docs interop mpich package user-types)

.PHONY: help demo test test-all fuzz lint types user-types interpreted doctests compiled processes mpi interop interop-torch interop-others bench bench-full docs clean
.PHONY: wheel newest oldest cuda-simulator cuda-code cuda-emulated cuda-steps-emulated cuda-sums-emulated mpi-emulated torch-emulated test-cuda bench-cuda

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## train a small network, time a step over a large buffer (a minute)
	@$(BIN)/fastopt demo

test: ## every check that needs no other library
	@$(MAKE) --no-print-directory lint
	@rm -rf $(CACHE)/compiled
	@echo && echo "types and five suites, two at a time: some minutes until the first one is through"
	@$(MAKE) --no-print-directory -j2 $(TOGETHER) types compiled processes interpreted cuda-simulator doctests

# So that both lanes are busy to the end.
LONGEST_FIRST := newest oldest interop-torch cuda-sums-emulated torch-emulated cuda-steps-emulated interop-others mpi docs mpi-emulated cuda-code user-types
test-all: ## the package, other Pythons, the pages, MPI, the code for GPUs, the comparisons with torch, optax and Keras
	@$(MAKE) --no-print-directory $(NEEDED)
	@echo && echo "thirteen checks, two at a time: some minutes until the first one is through"
	@$(MAKE) --no-print-directory -j2 $(TOGETHER) $(LONGEST_FIRST)

SECONDS := 600
fuzz: $(INSTALLED) ## new cases for SECONDS=600, of KIND=dense or of all; what is found comes as a line to run again
	@FASTOPT_CACHE_DIR=$(CACHE)/fuzz $(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(addprefix --only ,$(KIND))

lint: $(INSTALLED) ## ruff: rules and format
	$(call heading,ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(INSTALLED) ## mypy
	$(call heading,mypy)
	@$(BIN)/mypy

interpreted: $(INSTALLED) ## the suite without compilation, under branch coverage
	$(call heading,the suite interpreted (NUMBA_DISABLE_JIT=1) under branch coverage)
	@$(INTERPRETED) $(BIN)/coverage run -m pytest -q $(OWN)
	@$(BIN)/coverage report

user-types: $(VENV)/.user-types ## a user's script under mypy and pyright, which is installed for it
	$(call heading,a user's script under mypy and pyright)
	@$(COMPILED) $(BIN)/python -m pytest -q tests/test_user_types.py

doctests: $(INSTALLED) ## the examples in docstrings
	$(call heading,examples in docstrings)
	@$(COMPILED) $(BIN)/python -m pytest -q --doctest-modules --doctest-ignore-import-errors fastopt $(addprefix --ignore=fastopt/,interop/torch interop/mpi executors/cuda demo/ranks.py)

compiled: $(INSTALLED) ## the suite as users run it, but for what `make processes` has
	$(call heading,the suite compiled)
	@$(COMPILED) $(BIN)/python -m pytest $(OWN) $(addprefix --ignore=,$(PROCESSES))

processes: $(INSTALLED) ## the rest of it: the cache, forks, interrupts, processors, random cases
	$(call heading,in processes of their own)
	@$(COMPILED) $(BIN)/python -m pytest $(PROCESSES)

wheel: $(VENV)/.package ## build sdist and wheel, check them, install the wheel into an empty environment, use it
	$(call heading,the package)
	@$(BIN)/python -m tests.environments wheel

newest: wheel ## the suite, types and the wheel under the newest Python found
	$(call heading,the newest Python)
	@$(BIN)/python -m tests.environments newest $(PYTHONS) -- $(OWN) $(ANYWHERE) --share=1/3

oldest: wheel ## the same with the oldest dependencies that pyproject.toml allows
	$(call heading,the oldest dependencies)
	@$(BIN)/python -m tests.environments oldest -- $(OWN) $(ANYWHERE) --share=2/3

mpi: $(VENV)/.mpich ## the suite of the ranks, one to four of them, with MPICH from a wheel
	$(call heading,MPI)
	@$(COMPILED) $(BIN)/python -m pytest -q tests/mpi --doctest-modules fastopt/interop/mpi $(addprefix --ignore=,tests/mpi/device_jobs.py fastopt/interop/mpi/device_exchange.py)

cuda-simulator: $(INSTALLED) ## the logic of CUDA kernels, on Numba's simulator
	$(call heading,CUDA kernels on the simulator)
	@NUMBA_ENABLE_CUDASIM=1 $(COMPILED) $(BIN)/python -m pytest -q $(CUDA_LOGIC)

cuda-code: $(VENV)/.cuda-test ## the code generated for GPUs, which need not be there
	$(call heading,generated CUDA code)
	@$(COMPILED) $(BIN)/python -m pytest -q tests/test_cuda_code.py tests/test_cuda_numpy.py tests/test_cuda_registers.py

cuda-emulated: cuda-steps-emulated cuda-sums-emulated ## the CUDA executor on an emulated GPU, where there is one

cuda-steps-emulated: $(VENV)/.cuda-test
	$(call heading,CUDA on an emulated GPU)
	$(call emulated,$(CUDA))

cuda-sums-emulated: $(VENV)/.cuda-test
	$(call heading,CUDA on an emulated GPU: sums and launches)
	$(call emulated,$(CUDA_SUMS))

mpi-emulated: $(VENV)/.cuda-test $(VENV)/.mpich ## ranks with arrays on an emulated GPU, where there is one
	$(call heading,MPI with arrays on an emulated GPU)
	$(call emulated,tests/mpi/test_device.py tests/mpi/test_page.py::test_code_for_devices_runs)

torch-emulated: $(VENV)/.cuda-test $(VENV)/.interop ## tensors on an emulated GPU, where there is one
	$(call heading,torch with tensors on an emulated GPU)
	$(call emulated,$(addprefix tests/interop/test_torch_,cuda.py cuda_scan.py cuda_moved.py cuda_states.py cuda_sums.py backward_cuda.py graphs.py))

test-cuda: $(FOR_GPU) ## the CUDA executor on a GPU; ENV=here: with the Python that is there
	$(call heading,CUDA on a GPU)
	@$(ON_GPU) -c 'from fastopt.executors.cuda import availability; availability.require()'
	@$(COMPILED) $(ON_GPU) -m pytest $(CUDA) $(CUDA_SUMS) tests/test_cuda_code.py tests/test_cuda_registers.py

bench-cuda: $(FOR_GPU) ## measure on a GPU, in four minutes, and write the tables; ENV=here: as above
	@$(ON_GPU) -m bench.cuda
	@$(ON_GPU) -m bench.cuda.report

WITH_TORCH := $(wildcard tests/interop/test_torch_*.py)
interop: interop-torch interop-others ## the comparisons with other libraries, which are installed for it

interop-torch: $(VENV)/.interop
	$(call heading,against torch)
	@$(COMPILED) $(BIN)/python -m pytest -q $(WITH_TORCH) --doctest-modules fastopt/interop/torch --ignore=fastopt/interop/torch/graphs.py

interop-others: $(VENV)/.interop
	$(call heading,dialects of other libraries)
	@$(COMPILED) KERAS_BACKEND=torch $(BIN)/python -m pytest -q tests/interop $(addprefix --ignore=,$(WITH_TORCH))

bench: $(VENV)/.bench ## measure this machine (minutes), rewrite the tables and figures
	@$(BIN)/python -m bench

bench-full: $(VENV)/.bench $(VENV)/.mpich ## every combination, more rounds, and two ranks of MPI
	@$(BIN)/python -m bench --full; status=$$?; $(BIN)/python -m bench.mpi && exit $$status

docs: $(VENV)/.docs ## the pages as HTML, in docs/_build; a warning is an error. Then their tests
	$(call heading,pages)
	@$(COMPILED) $(BIN)/sphinx-build -W -q -b html docs docs/_build
	@$(COMPILED) $(BIN)/python -m pytest -q tests/pages
	@echo "docs/_build/index.html"

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) build dist docs/_build docs/_drawn docs/gallery docs/reference .coverage .benchmarks .hypothesis .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@[ -x $(BIN)/pip ] || { \
	    for python in $(PYTHON) python3 $(PYTHONS); do \
	        "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	        python=; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "fastopt needs Python 3.11 or newer, and none was found." >&2; \
	        echo "Install one, or say where it is: make PYTHON=/path/to/python3.12 ..." >&2; \
	        exit 1; \
	    fi; \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV); \
	}
	@echo "installing fastopt and its tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(addprefix $(VENV)/.,bench cuda-test docs interop mpich package user-types): $(VENV)/.%: $(INSTALLED)
	@echo "installing what 'make $*' needs"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@
