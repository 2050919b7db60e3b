"""Count the signs that `hopfield` recalls wrongly on the maps of the study `robustness`.

    python benchmarks/signs.py s_digits=data/features/digits-<key>/<backbone>/view0 ...

The features are those that `snakemake robustness --configfile config/studies.yaml` extracts. Per data set and
theta the script prints, over all seeds, the share of missing entries whose recalled side of the threshold is
wrong, the relative error, and the relative error of the side means for the true signs. It asserts nothing.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sharc_core.features.cache import open_features
from sharc_core.grid.loading import load_grid
from sharc_core.studies.recall.measure import saliency_mask
from sharc_core.studies.registered import study_of
from sharc_core.studies.robustness.measure import Trial, _prepared, relative_error
from sharc_core.studies.robustness.settings import RobustnessJob

GRID = Path(__file__).resolve().parents[1] / "config/studies.yaml"


def measured(job: RobustnessJob, folder: str, theta: float) -> Iterator[tuple[float, float, float]]:
    """Yield per seed the share of wrong signs, the error, and the error with the true signs."""
    for seed in job.study.seeds:
        features, head, classes = _prepared(open_features(folder), job, seed)
        trial = Trial(features, head, classes, job, seed)
        memory, index = trial.written(job.memories["hopfield"]), trial.images.stored
        maps = features.train_maps[index].float()
        kept = saliency_mask(features, index, head, theta)
        known = kept[:, :, None, None].expand_as(maps)
        recalled = memory.read(torch.where(known, maps, 0.0), kept, features.train_labels[index])
        signs, seen = memory.bipolar(maps.flatten(1)), known.flatten(1)
        settled = memory.settle(torch.where(seen, signs, 0.0), seen)
        # a map of which everything is known settles at once, and is given the side means of its signs
        best = memory.complete(maps, torch.ones_like(kept), None)
        errors = (
            relative_error(found.double(), maps.double(), ~known, maps.double().mean(0))
            for found in (recalled, best)
        )
        yield float((settled != signs)[~seen].double().mean()), *errors


def main() -> None:
    """Print a line per data set and theta."""
    folders = dict(argument.split("=", 1) for argument in sys.argv[1:])
    grid = load_grid(yaml.safe_load(GRID.read_text()))
    for values in study_of(grid, "robustness").chosen_jobs(grid):
        job = RobustnessJob.model_validate(dict(values.settings))
        for theta in job.study.thetas if job.dataset in folders else ():
            wrong, error, best = (
                torch.tensor(list(measured(job, folders[job.dataset], theta))).mean(0).tolist()
            )
            print(
                f"{job.dataset}, theta {theta:g}: {100 * wrong:.3f} % of the missing signs are wrong; "
                f"relative error {error:.3f}, with the true signs {best:.3f}"
            )


if __name__ == "__main__":
    main()
