# `make` sets up everything and produces the default results; `make paper` the paper's;
# `make test` runs all tests.
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: all paper test lint format bench lock audit clean

all: $(STAMP)
	$(BIN)/snakemake --cores $(CORES)

# The paper's tables and figures: hours, and downloads; config/paper.yaml says what it needs.
paper: $(STAMP)
	$(BIN)/snakemake --cores $(CORES) --configfile config/paper.yaml

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	@# compiled now, on all cores: where Python may write no bytecode, every start would do it again
	-$(BIN)/python -m compileall -qq -j 0 -x '/tests/|/(pip|setuptools)/' $(VENV)/lib
	@touch $@

# bytecode is written, or each of the many processes would compile the project again
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python benchmarks/runs.py

# The lock is universal (markers for other platforms) and names no registry.
lock:
	uv pip compile pyproject.toml --extra test --extra lint --extra parquet --extra slurm --universal --python-version 3.11 \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
	  --constraint constraints.txt -o requirements.lock
	python3 envs/make_env.py

# Known holes in the locked versions; needs internet. --strict: what cannot be looked up is no pass.
audit:
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip -r requirements.lock

clean:
	rm -rf $(VENV) data results logs .snakemake
