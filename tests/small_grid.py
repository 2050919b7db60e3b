"""A grid that runs in seconds: four rendered characters, a backbone pre-trained on four others."""

from pathlib import Path

from sharc_core.grid.loading import load_grid
from sharc_core.grid.models import Grid

GLYPHS = {"source": "glyphs", "classes": 4, "train_per_class": 8, "test_per_class": 4}
PRETRAINING = {"dataset": {**GLYPHS, "first_class": 1000, "digits": False}, "epochs": 1, "batch_size": 8}


def small_grid(folder: Path, **backbone) -> Grid:
    """Return the grid with data and results below a folder. backbone: keys that replace `pretrain`."""
    block = {"arch": "resnet_small", "weights": "pretrain", "image_size": 32, "name": "small"}
    return load_grid(
        {
            "datasets": {"s_glyphs": {**GLYPHS, "tasks": 2}},
            "backbone": block | (backbone or {"pretrain": PRETRAINING}),
            "data_dir": str(folder / "data"),
            "results_dir": str(folder / "results"),
            "methods": ["sgd"],
        }
    )
