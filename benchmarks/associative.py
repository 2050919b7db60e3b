"""Compare BayesPCN with a direct implementation of the published procedure: time and recall error.

    python benchmarks/associative.py [--maps 40] [--classes 2] [--theta 0.4 0.8] [--log-joint predictive map]

The paper's sizes: maps of 512 x 7 x 7 = 25,088 floats, 256 hidden units, batches of 10, 500 Adam steps.
The direct implementation is the published procedure in plain torch: autograd and torch's Adam over the
hidden units and, in reading, over all map entries, in float32 on complete maps. It is compared with
`bayespcn`, which computes the same with less work, and with `bayespcn_exact`, which has another reading
procedure. All write the same maps and read the same cues in one process, and take all steps unless
--tolerance is given. The script prints a table and asserts nothing.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.saliency.channel_masks import top_mask

SHAPE = (512, 7, 7)
KIND, EXACT = ASSOCIATIVE_MEMORIES.get("bayespcn"), ASSOCIATIVE_MEMORIES.get("bayespcn_exact")


class Direct(KIND):
    """Write and read by autograd over complete maps; the conjugate updates are the same."""

    def learn(self, maps, labels):
        """Per batch, find the mode of the hidden units given the maps, then update the weights."""
        batch = self.settings.batch
        for offset, x in zip(range(0, len(maps), batch), maps.float().flatten(1).split(batch), strict=True):
            hidden, _ = self._mode(x, self.draw_start("write", offset, len(x)), None)
            self.update(x, [hidden.double()])

    def complete(self, maps, mask, labels):
        """Per batch, optimise hidden units and unobserved entries together."""
        flat, start = maps.flatten(1), self.draw_start("read", 0, len(maps))
        seen = mask.repeat_interleave(SHAPE[1] * SHAPE[2], 1)
        parts = (each.split(self.settings.batch) for each in (flat, start, seen))
        return torch.cat([self._mode(*part)[1] for part in zip(*parts, strict=True)]).view_as(maps)

    @torch.enable_grad()
    def _mode(self, cue: torch.Tensor, start: torch.Tensor, seen: torch.Tensor | None):
        """Return hidden units and entries after the steps. seen: None for writing (entries are fixed)."""
        s, weights, covariance = self.settings, self.layers[0].mean, self.layers[0].covariance.float()
        hidden, entries = start.float().requires_grad_(), cue.clone().requires_grad_(seen is not None)
        optimiser = torch.optim.Adam([hidden] if seen is None else [hidden, entries], lr=s.lr)
        before = None
        for _ in range(s.steps):
            value = self._direct_log_joint(entries, hidden, weights, covariance, coupled=seen is None)
            optimiser.zero_grad()
            (-value.sum()).backward()
            optimiser.step()
            if seen is not None:
                with torch.no_grad():
                    entries.copy_(torch.where(seen, cue, entries))
            value = value.detach()
            if s.tolerance is not None:
                if before is not None and bool(((value - before).abs() <= s.tolerance).all()):
                    break
                before = value
        return hidden.detach(), entries.detach()

    def _direct_log_joint(self, x, hidden, weights, covariance, coupled: bool) -> torch.Tensor:
        """Return the log joint up to a constant: one value for the batch if coupled, else one per row."""
        s, noise, z = self.settings, self.settings.sigma_obs**2, hidden.relu()
        error, predictive = x - z @ weights, s.log_joint == "predictive"
        top = (hidden - self.top_mean.float()).square().sum(1)
        top = top / (2 * (noise + (self.top_variance if predictive else 0.0)))
        if predictive and coupled:
            spread = noise * torch.eye(len(x)) + z @ covariance @ z.T
            fit = (torch.linalg.inv(spread) * (error @ error.T)).sum()
            return -(self.size * torch.logdet(spread) + fit) / 2 - top.sum()
        spread = noise + ((z @ covariance) * z).sum(1) if predictive else torch.tensor(noise)
        return -(self.size * spread.log() + error.square().sum(1) / spread) / 2 - top


def make_maps(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return non-negative, sparse, correlated maps, scattered around one centre per class."""
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    size = SHAPE[0] * SHAPE[1] * SHAPE[2]
    centres = torch.randn(classes, size, generator=source)
    factors = torch.randn(20, size, generator=source) / 20**0.5
    maps = 0.3 * centres[labels] + torch.randn(count, 20, generator=source) @ factors
    maps += 0.1 * torch.randn(count, size, generator=source)
    return maps.relu().view(count, *SHAPE).half(), labels


class Recall:
    """Cues with masked channels, and the error of their completion."""

    def __init__(self, maps: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor):
        self.maps, self.labels, self.mask = maps, labels, mask

    def read(self, memory, settings) -> tuple[float, float]:
        """Return seconds and relative recall error."""
        memory.settings = settings
        start = time.perf_counter()
        recalled = memory.read(self.maps, self.mask, self.labels)
        seconds, true = time.perf_counter() - start, self.maps.float()
        dropped = ~self.mask[:, :, None, None].expand_as(recalled)
        spread = (true - true.mean(0))[dropped].square().sum()
        return seconds, float((recalled - true)[dropped].square().sum() / spread)


def write(kind: type, settings, maps, labels) -> tuple[float, object]:
    """Write all maps to a new memory; return the seconds and the memory."""
    memory = kind(settings, SHAPE, int(labels.max()) + 1)
    start = time.perf_counter()
    memory.write(maps, labels)
    return time.perf_counter() - start, memory


def compare(log_joint: str, options, maps, labels, recalls: dict[float, Recall]) -> list[list]:
    """Return the table's rows. Fast implementations are timed before and after the direct one."""
    common = {"steps": options.steps, "tolerance": options.tolerance, "log_joint": log_joint}
    settings, exact = KIND.Settings(**common), EXACT.Settings(**common)
    for kind in (KIND, Direct):  # warm-up: loading at the first step is not timed
        write(kind, settings.model_copy(update={"steps": 2}), maps[:10], 0 * labels[:10])
    times = [write(KIND, settings, maps, labels)[0] for _ in range(options.repeats)]
    seconds, direct = write(Direct, settings, maps, labels)
    for _ in range(options.repeats):
        last, memory = write(KIND, settings, maps, labels)
        times.append(last)
    median = statistics.median(times)
    rows = [[log_joint, "write", "bayespcn", seconds, median, seconds / median, None, None]]
    for theta, recall in recalls.items():
        published = [recall.read(memory, settings)]
        fast = [recall.read(memory, exact) for _ in range(options.repeats)]
        seconds, error = recall.read(direct, settings)
        published.append(recall.read(memory, settings))
        fast += [recall.read(memory, exact) for _ in range(options.repeats)]
        for name, runs in (("bayespcn", published), ("bayespcn_exact", fast)):
            median = statistics.median(run[0] for run in runs)
            task = f"read, theta {theta:g}"
            rows.append([log_joint, task, name, seconds, median, seconds / median, error, runs[0][1]])
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=40)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--theta", type=float, nargs="+", default=[0.4, 0.8])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--tolerance", type=float, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--log-joint", nargs="+", default=["predictive"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    maps, labels = make_maps(options.maps, options.classes)
    source = torch.Generator().manual_seed(1)
    saliency = torch.rand(options.classes, SHAPE[0], generator=source)[labels]
    recalls = {theta: Recall(maps, labels, top_mask(saliency, theta)) for theta in options.theta}
    print(
        f"{options.maps} maps of {SHAPE}, {options.classes} masks, {options.steps} steps, "
        f"{options.threads} threads, torch {torch.__version__}"
    )
    header = ["log joint", "", "against", "direct, s", "s", "ratio", "error, direct", "error"]
    rows = [row for each in options.log_joint for row in compare(each, options, maps, labels, recalls)]
    print(tabulate(rows, header, floatfmt=("", "", "", ".2f", ".3f", ".1f", ".5f", ".5f")))


if __name__ == "__main__":
    main()
