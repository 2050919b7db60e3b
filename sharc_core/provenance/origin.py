"""Where a run happened and what it was a function of: commit, libraries, data, weights, host.

No number depends on this module: it is in no code hash (see provenance.WITHOUT).
"""

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from sharc_core import __version__
from sharc_core.common.files import digest

UNKNOWN = "unknown"
ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # as git sets them in a hook, for its own checkout
CODE = ("sharc_core", "workflow", "Snakefile")  # where a file that git does not know is a change


def run_origin(manifest: Mapping[str, Any], device: object = "cpu") -> dict[str, Any]:
    """The `origin` of a result document, JSON-able. manifest: of the features that the run reads.

    To be asked for when a run begins: the checkout may change while it lasts.
    """
    return {
        **git_state(),
        "data": manifest["dataset"],
        "weights": manifest["backbone"]["sha256"],
        "features": features_hash(manifest),
        "host": host(device),
    }


def features_hash(manifest: Mapping[str, Any]) -> str:
    """Hex SHA-256 that stands for all files of a feature folder, by their checksums in its manifest."""
    return digest(manifest["files"], 64)


def versions() -> dict[str, str]:
    """What a run's bits depend on besides its inputs."""
    import numpy as np
    import torch

    return {
        "sharc_bench": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": metadata.version("torchvision"),
        "numpy": np.__version__,
    }


def host(device: Any = "cpu") -> str:
    """Type of this machine: system, architecture, processor, the GPU if that is the device. Not its name."""
    parts = [f"{platform.system()} {platform.machine()}", _processor()]
    if str(device).startswith("cuda"):
        import torch

        parts.append(torch.cuda.get_device_name(device))
    return ", ".join(" ".join(part.split()) for part in parts if part)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next((line.split(":", 1)[1] for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


@functools.cache
def git_state(root: Path = ROOT) -> dict[str, Any]:
    """Commit of the checkout at `root` and whether it is `dirty`; UNKNOWN and None where there is none.

    dirty: a file of the commit was changed, or code was added that git does not know (a plug-in that is
    yet to be committed). Results, data and grid files that lie about are neither. A copy of the project
    inside some other repository has no commit: that one's would be a false one. Read once a process,
    which runs the code that it found then.
    """

    def git(*arguments: str) -> str:
        # no locks: many cells ask at once
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() == root.resolve():
            changed = git("status", "--porcelain", "--untracked-files=no")
            added = git("ls-files", "--others", "--exclude-standard", "--exclude=__pycache__/", "--", *CODE)
            return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed or added)}
    except (OSError, UnicodeDecodeError, subprocess.CalledProcessError):
        pass
    return {"commit": UNKNOWN, "dirty": None}
