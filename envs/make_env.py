"""Write envs/sharc.yaml from requirements.lock, so that all pins have one source; called by `make lock`.

The pins are copied, not referenced, because Snakemake builds an environment from a copy of the file.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# Written by `make lock` from requirements.lock; do not edit. For `snakemake --sdm conda` and
# `conda env create -f envs/sharc.yaml`: Python from conda-forge, the same packages as `make` installs.
name: sharc-bench
channels: [conda-forge, nodefaults]
dependencies:
  - python >=3.11,<3.14
  - pip
  - pip:
"""


def environment(lock: str) -> str:
    """Return the conda environment file for the text of a lock file."""
    pins = [line for line in lock.splitlines() if line and not line.startswith("#")]
    return HEADER + "".join(f'      - "{pin}"\n' for pin in pins)


if __name__ == "__main__":
    (ROOT / "envs/sharc.yaml").write_text(environment((ROOT / "requirements.lock").read_text()))
