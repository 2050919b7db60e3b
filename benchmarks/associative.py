"""BayesPCN through Gram matrices against a direct implementation: write and read time, recall error.

    python benchmarks/associative.py [--maps 40] [--classes 2] [--theta 0.4 0.8] [--restricted]

The paper's sizes: maps of 512 x 7 x 7 = 25,088 floats, 256 hidden units, batches of 10, 500 Adam steps.
The direct form is the algorithm as published: torch's autograd and Adam over the hidden layer, every step
on whole maps in float32 (the small S in float64, as in the Gram form: in float32 it is too coarse). Both
write the same maps and read the same cues in one process; prints a table and asserts nothing.

Reading, too, works on whole maps there, with what is not observed at its best value. --restricted: it takes
over from the Gram form that the observed columns are enough.

The last column tells what rounding alone does: with the predictive log joint 500 steps end far from the
optimum, and where depends on the last bits; with the MAP one they converge.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sharc_core.associative import ASSOCIATIVE_MEMORIES, bayespcn
from sharc_core.encoding import top_mask

SHAPE = (512, 7, 7)
GRAM_RUNS = 3  # before each task of the direct form, and as many at the end: their median counts
KIND = ASSOCIATIVE_MEMORIES.get("bayespcn")


class Direct(KIND):
    """Writes and reads by autograd over whole maps; the conjugate updates are the same."""

    restricted = False  # to the observed columns, in reading

    def learn(self, maps, labels):
        """Batch by batch, the hidden mode given all entries."""
        for x in maps.float().flatten(1).split(self.settings.batch):
            self.update(x, [self._mode(x, self.layers[0].mean)])

    def complete(self, maps, mask, labels):
        """The hidden mode given the observed entries, for batches that share a mask."""
        flat, out = maps.flatten(1), torch.empty_like(maps.flatten(1))
        weights = self.layers[0].mean
        for row in mask.unique(dim=0):
            seen = row.repeat_interleave(SHAPE[1] * SHAPE[2])
            for members in (mask == row).all(1).nonzero().flatten().split(self.settings.batch):
                if self.restricted:
                    hidden = self._mode(flat[members][:, seen], weights[:, seen])
                else:
                    hidden = self._mode(flat[members], weights, seen)
                out[members] = hidden.relu().float() @ weights
        return out.view_as(maps)

    def _mode(self, x: torch.Tensor, weights: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        s, top, covariance = self.settings, self.top_mean, self.layers[0].covariance
        noise = s.sigma_obs**2
        predictive = s.log_joint == "predictive"
        spread = noise + (float(self.top_variance) if predictive else 0.0)
        with torch.enable_grad():
            start = torch.full((len(x), s.hidden), s.hidden**-0.5, dtype=torch.float64)
            hidden = start.requires_grad_()
            optimiser = torch.optim.Adam([hidden], lr=s.lr)
            for _ in range(s.steps):
                z = hidden.relu()
                error = x - z.float() @ weights  # all that is large is float32
                if seen is not None:  # at the best what is not observed equals its prediction
                    error = torch.where(seen, error, 0.0)
                coupled = noise * torch.eye(len(x), dtype=z.dtype)
                if predictive:
                    coupled = coupled + z @ covariance @ z.T
                fit = (torch.linalg.inv(coupled) * (error @ error.T).double()).sum()
                loss = (self.size * torch.logdet(coupled) + fit) / 2
                loss = loss + (hidden - top).square().sum() / (2 * spread)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return hidden.detach()


def make_maps(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Non-negative, sparse, correlated maps, each class about its own centre."""
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    size = SHAPE[0] * SHAPE[1] * SHAPE[2]
    centres = torch.randn(classes, size, generator=source)
    factors = torch.randn(20, size, generator=source) / 20**0.5
    maps = 0.3 * centres[labels] + torch.randn(count, 20, generator=source) @ factors
    maps += 0.1 * torch.randn(count, size, generator=source)
    return maps.relu().view(count, *SHAPE).half(), labels


def measure(kind: type, settings, maps, labels, masks: dict, before: Callable = lambda: None) -> dict:
    """Seconds of writing all maps and of reading them at each theta, and the relative recall errors.

    before: is called ahead of every task, and not timed.
    """
    memory = kind(settings, SHAPE, int(labels.max()) + 1)
    before()
    start = time.perf_counter()
    memory.write(maps, labels)
    found = {"write": (time.perf_counter() - start, None)}
    true = maps.float()
    for theta, mask in masks.items():
        before()
        start = time.perf_counter()
        recalled = memory.read(maps, mask, labels)
        seconds = time.perf_counter() - start
        dropped = ~mask[:, :, None, None].expand_as(recalled)
        error = (recalled - true)[dropped].square().sum() / (true - true.mean(0))[dropped].square().sum()
        found[f"read, theta {theta:g}"] = (seconds, float(error))
    return found


def main() -> None:
    """Print a table per form of the log joint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=40)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--theta", type=float, nargs="+", default=[0.4, 0.8])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--restricted", action="store_true")
    parser.add_argument("--log-joint", nargs="+", default=["predictive", "map"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    Direct.restricted = options.restricted
    maps, labels = make_maps(options.maps, options.classes)
    source = torch.Generator().manual_seed(1)
    saliency = torch.rand(options.classes, SHAPE[0], generator=source)[labels]
    masks = {theta: top_mask(saliency, theta) for theta in options.theta}
    print(
        f"{options.maps} maps of {SHAPE}, {options.classes} masks, {options.steps} steps, "
        f"{options.threads} threads, torch {torch.__version__}"
    )
    header = ["log joint", "", "direct, s", "Gram, s", "ratio"]
    header += ["error, direct", "error, Gram", "error, Gram, other rounding"]
    rows = []
    for log_joint in options.log_joint:
        settings = KIND.Settings(steps=options.steps, tolerance=None, log_joint=log_joint)
        for kind in (KIND, Direct):  # what a first step loads is not timed
            kind(settings.model_copy(update={"steps": 2}), SHAPE, 1).write(maps[:10], 0 * labels[:10])
        # The same form with all products formed anew for every batch: equal but for the last bits.
        bayespcn.REFRESH, usual = 1, bayespcn.REFRESH
        other = measure(KIND, settings, maps, labels, masks)
        bayespcn.REFRESH = usual
        runs = []

        def some_runs(settings=settings, runs=runs) -> None:
            runs.extend(measure(KIND, settings, maps, labels, masks) for _ in range(GRAM_RUNS))

        # It takes a second where the direct form takes a minute, in which a shared processor's rate may
        # change by a half: so its runs are spread over that minute.
        direct = measure(Direct, settings, maps, labels, masks, before=some_runs)
        some_runs()
        gram = {task: (statistics.median(run[task][0] for run in runs), runs[0][task][1]) for task in direct}
        for task, (seconds, error) in direct.items():
            ratio = seconds / gram[task][0]
            rows.append(
                [log_joint, task, seconds, gram[task][0], ratio, error, gram[task][1], other[task][1]]
            )
    print(tabulate(rows, header, floatfmt=("", "", ".2f", ".3f", ".1f", ".5f", ".5f", ".5f")))


if __name__ == "__main__":
    main()
