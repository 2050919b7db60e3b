"""The origin of a run: commit, library versions, data, weights and host.

No number depends on this module, so no code hash covers it (see code_hashes.WITHOUT).
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
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set by git in a hook, for the hook's checkout
CODE = ("sharc_core", "workflow", "Snakefile")  # an untracked file in these places counts as a change


def run_origin(manifest: Mapping[str, Any], device: object = "cpu") -> dict[str, Any]:
    """Return the `origin` of a result document; JSON-able. manifest: the manifest of the run's features.

    Call it when a run begins, because the checkout may change during the run.
    """
    return {
        **git_state(),
        "data": manifest["dataset"],
        "weights": manifest["backbone"]["sha256"],
        "features": features_hash(manifest),
        "host": host(device),
    }


def features_hash(manifest: Mapping[str, Any]) -> str:
    """Return a hex SHA-256 over the checksums of all files of a feature folder, from its manifest."""
    return digest(manifest["files"], 64)


def versions() -> dict[str, str]:
    """Return the versions of the software that a run's bits depend on."""
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
    """Return the type of this machine (not its name): system, architecture, processor and the GPU if used."""
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
    """Return the commit of the checkout at `root` and whether it is `dirty`; UNKNOWN and None without one.

    dirty: a tracked file was changed, or there is untracked code (such as a plug-in that is not committed
    yet). Untracked results, data and grid files do not count. A copy of the project inside another repository
    has no commit, because that repository's commit does not describe it. The result is cached for the
    process, which runs the code that it has loaded.
    """

    def git(*arguments: str) -> str:
        # no locks, because many cells call git at the same time
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
