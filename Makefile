# `make` sets up everything and produces the default results; `make paper` the paper's;
# `make test` runs all tests.
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
# Shells get the folder's name from the environment: make itself would split it at blanks.
export VENV
RUN := "$$VENV/bin/python" -m

.PHONY: all paper installed test lint format bench lock audit clean

# `python -m`, as the first line of bin/snakemake holds no path with quotes or line feeds
all: installed
	@$(RUN) snakemake --cores $(CORES)

# The paper's tables and figures: hours, and downloads; config/paper.yaml says what it needs.
paper: installed
	@$(RUN) snakemake --cores $(CORES) --configfile config/paper.yaml

# No file is its target: a target's name can have no blanks.
installed: export PYTHON := $(PYTHON)
installed:
	@sh envs/install.sh

# bytecode is written, or each of the many processes would compile the project again
test: installed
	PYTHONDONTWRITEBYTECODE= $(RUN) pytest -n logical --dist loadfile --no-loadscope-reorder

lint: installed
	$(RUN) ruff check .
	$(RUN) ruff format --check .

format: installed
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

bench: installed
	"$$VENV/bin/python" benchmarks/runs.py

# The lock is universal (markers for other platforms) and names no registry.
lock:
	uv pip compile pyproject.toml --extra test --extra lint --extra parquet --extra slurm --universal --python-version 3.11 \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
	  --constraint constraints.txt -o requirements.lock
	python3 envs/make_env.py

# Known holes in the locked versions; needs internet. --strict: what cannot be looked up is no pass.
audit:
	$(PYTHON) -m venv "$$VENV/audit"
	"$$VENV/audit/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit
	"$$VENV/audit/bin/python" -m pip_audit --strict --no-deps --disable-pip -r requirements.lock

clean:
	rm -rf -- "$$VENV" data results logs .snakemake
