"""The relative gains that the paper claims in its text, checked with its tables and with the grid's runs."""

from collections.abc import Sequence
from typing import NamedTuple

from sharc_core.results.published import PublishedPair
from sharc_core.results.statistics import relative_gain
from sharc_core.results.summary import Entry


class Claim(NamedTuple):
    """A gain in the paper's words. buffers: those for which the published ACC give that percentage."""

    text: str
    scenario: str
    dataset: str
    method: str
    buffers: tuple[int, ...]


CLAIMS = (
    Claim("12.9 % for CLS-ER on S-CIFAR-10, buffer 200, Task-IL", "task_il", "s_cifar10", "clser", (200,)),
    # the paper names no buffer; both of its buffers give 45.5 %
    Claim("45.5 % for DER++ on S-CIFAR-100, Class-IL", "class_il", "s_cifar100", "derpp", (200, 500)),
)


class Checked(NamedTuple):
    """A claim at one buffer. paper: the published ACC, None without the published table.

    label: of the setup that answers it. plain, sharc: None where the grid has no such pair. gain, low, high:
    the relative gain here over the common seeds, in percent of the plain ACC, and its 95 % interval.
    """

    claim: Claim
    buffer: int
    paper: PublishedPair | None
    label: str = ""
    plain: Entry | None = None
    sharc: Entry | None = None
    gain: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")

    @property
    def published_gain(self) -> float:
        """Relative gain of the published means, in percent."""
        return 100 * (self.paper.sharc / self.paper.plain - 1) if self.paper else float("nan")


def check_claims(
    pairs: Sequence[tuple[str, Entry, Entry]], published: dict[tuple, PublishedPair]
) -> list[Checked]:
    """Check every claim at each of its buffers with every pair of the grid that it is about.

    pairs: (label of the setup, plain, SHARC). A claim at a buffer that no pair answers has one result, with
    `plain` and `sharc` None.
    """
    checked = []
    for claim in CLAIMS:
        for buffer in claim.buffers:
            key = (claim.scenario, claim.dataset, buffer, claim.method)
            paper = published.get(key)
            answers = [
                Checked(claim, buffer, paper, label, plain, sharc, *_gain(plain, sharc))
                for label, plain, sharc in pairs
                if (sharc.scenario, sharc.dataset, sharc.buffer, sharc.method) == key
            ]
            checked += answers or [Checked(claim, buffer, paper)]
    return checked


def _gain(plain: Entry, sharc: Entry) -> tuple[float, float, float]:
    plain_acc, sharc_acc = plain.acc_by_seed, sharc.acc_by_seed
    common = [seed for seed in plain.seeds if seed in sharc_acc]
    return relative_gain([plain_acc[seed] for seed in common], [sharc_acc[seed] for seed in common])
