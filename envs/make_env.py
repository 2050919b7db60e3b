"""Write envs/sharc.yaml from requirements.lock (`make lock` calls this): one source for all pins.

The pins are copied in, not referred to, because Snakemake builds an environment from a copy of the file.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# Made by `make lock` from requirements.lock; do not edit. For `snakemake --sdm conda` and
# `conda env create -f envs/sharc.yaml`: Python from conda-forge, the packages as `make` installs them.
name: sharc-bench
channels: [conda-forge, nodefaults]
dependencies:
  - python >=3.11,<3.14
  - pip
  - pip:
"""


def environment(lock: str) -> str:
    """The conda environment file for a lock file's text."""
    pins = [line for line in lock.splitlines() if line and not line.startswith("#")]
    return HEADER + "".join(f'      - "{pin}"\n' for pin in pins)


if __name__ == "__main__":
    (ROOT / "envs/sharc.yaml").write_text(environment((ROOT / "requirements.lock").read_text()))
