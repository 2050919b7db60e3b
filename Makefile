# `make` sets up everything and produces the default results; `make paper` produces the paper's;
# `make test` runs all tests, `make test-fast` those without Snakemake and other slow parts.
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
# The shell reads VENV from the environment, because make would split its name at spaces.
export VENV
RUN := "$$VENV/bin/python" -m

.PHONY: all paper installed test test-fast lint format bench lock audit clean

# `python -m`: the first line of bin/snakemake cannot contain a path with quotes or line feeds
all: installed
	@$(RUN) snakemake --cores $(CORES)

# The paper's tables and figures. Takes hours and downloads data; config/paper.yaml lists what it needs.
paper: installed
	@$(RUN) snakemake --cores $(CORES) --configfile config/paper.yaml

# Not a file target, because the name of a target cannot contain spaces.
installed: export PYTHON := $(PYTHON)
installed:
	@sh envs/install.sh

# Write bytecode, otherwise each of the many processes compiles the project again.
PYTEST := PYTHONDONTWRITEBYTECODE= $(RUN) pytest -n logical --dist loadfile --no-loadscope-reorder

# All tests. Target on two idle cores: 8 minutes.
test: installed
	$(PYTEST)

# Without the tests marked `pipeline` or `slow` (pyproject.toml). Target on two idle cores: 90 seconds.
test-fast: installed
	$(PYTEST) -m "not pipeline and not slow"

lint: installed
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: installed
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

bench: installed
	"$$VENV/bin/python" benchmarks/bench.py

# The lock file is universal (with markers for other platforms) and names no registry.
lock:
	uv pip compile pyproject.toml --extra test --extra lint --extra parquet --extra slurm --universal --python-version 3.11 \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
	  --constraint constraints.txt -o requirements.lock
	python3 envs/make_env.py

# Known vulnerabilities of the locked versions; needs internet. --strict: a failed lookup is an error.
audit:
	$(PYTHON) -m venv "$$VENV/audit"
	"$$VENV/audit/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit
	"$$VENV/audit/bin/python" -m pip_audit --strict --no-deps --disable-pip -r requirements.lock

clean:
	rm -rf -- "$$VENV" data results logs .snakemake
