"""SHARC-Bench: replay methods for continual learning, measured on frozen features, every byte counted.

As a library:

    from sharc_core import cells, ensure_features, load_config, run_cell

    grid = load_config("config.yaml")
    cell = next(c for c in cells(grid) if c.method == "er" and c.variant == "sharc")
    document = run_cell(ensure_features(grid, cell.dataset), cell)
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "Cell": "grid.cell",
    "Grid": "grid.models",
    "cells": "grid.unroll",
    "check_inputs": "stages.preflight",
    "load_config": "grid.loading",
    "load_grid": "grid.loading",
    "ensure_features": "stages.build",
    "run_cell": "learning.learner",
    "runs_table": "results.runs",
    "METHODS": "methods",
    "ASSOCIATIVE_MEMORIES": "associative",
    "SALIENCIES": "saliency",
    "SOURCES": "datasets",
    "UserError": "common.errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """Import on first use: `import sharc_core` alone stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sharc_core' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sharc_core.{_HOMES[name]}"), name)
