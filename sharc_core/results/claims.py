"""The gains that the paper claims by name, beside its own tables and beside ours."""

from collections.abc import Sequence
from typing import NamedTuple

from sharc_core.common.formats import DASH, number_text
from sharc_core.learning.metrics import relative_gain
from sharc_core.results.display_names import method_name
from sharc_core.results.published import SETTING, SOURCE, PublishedPair
from sharc_core.results.summary import Entry
from sharc_core.results.table_formats import Finding, Item, Table


class Claim(NamedTuple):
    """A gain as the paper words it. buffers: those whose published ACC give that percentage."""

    text: str
    scenario: str
    dataset: str
    method: str
    buffers: tuple[int, ...]


CLAIMS = (
    Claim("12.9 % for CLS-ER on S-CIFAR-10, buffer 200, Task-IL", "task_il", "s_cifar10", "clser", (200,)),
    # no buffer is named, and both of them give 45.5 %
    Claim("45.5 % for DER++ on S-CIFAR-100, Class-IL", "class_il", "s_cifar100", "derpp", (200, 500)),
)


class Checked(NamedTuple):
    """A claim at one buffer. paper: None without the published table.

    plain, sharc: None where the grid lacks them. label: which of the grid's setups. gain, low, high: ours
    over the common seeds, in percent of the plain ACC, with its 95 % interval.
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
        """Relative gain of the published means, percent."""
        return 100 * (self.paper.sharc / self.paper.plain - 1) if self.paper else float("nan")


def check_claims(
    pairs: Sequence[tuple[str, Entry, Entry]], published: dict[tuple, PublishedPair]
) -> list[Checked]:
    """Every claim and buffer with each of the grid's pairs that it is about; at least one each.

    pairs: (label of its setup, plain, SHARC).
    """
    found = []
    for claim in CLAIMS:
        for buffer in claim.buffers:
            key = (claim.scenario, claim.dataset, buffer, claim.method)
            paper = published.get(key)
            here = [
                Checked(claim, buffer, paper, label, plain, sharc, *_gain(plain, sharc))
                for label, plain, sharc in pairs
                if (sharc.scenario, sharc.dataset, sharc.buffer, sharc.method) == key
            ]
            found += here or [Checked(claim, buffer, paper)]
    return found


def _gain(plain: Entry, sharc: Entry) -> tuple[float, float, float]:
    before, after = plain.acc_by_seed, sharc.acc_by_seed
    common = [seed for seed in plain.seeds if seed in after]
    return relative_gain([before[seed] for seed in common], [after[seed] for seed in common])


def claims_table(checked: Sequence[Checked]) -> Table:
    """The paper's gains beside ours."""
    header = ["Buffer", "Claim", "ACC", "relative gain", "ACC", "relative gain", "95 % interval", "points"]
    several = any(case.label for case in checked)
    header[1:1] = ["Setup"] if several else []
    rows = []
    for case in checked:
        ours = _ours(case) if case.sharc else [Item("not in this grid"), *[Item(DASH)] * 3]
        rows.append(
            [
                Item(str(case.buffer), case.buffer),
                *([Item(case.label)] if several else []),
                Item(case.claim.text),
                _from_to(case.paper.plain, case.paper.sharc) if case.paper else Item(DASH),
                _percent(case.published_gain),
                *ours,
            ]
        )
    caption = (
        "Relative gains: ACC with SHARC over ACC without, less 1. Published: recomputed from the tables of "
        f"{SOURCE} ({SETTING}). Here: ratio of the means over the same seeds, 95 % interval after Fieller; "
        "backbone and protocol differ. points: the difference of ACC. "
        f"{method_name('derpp')}'s claim names no buffer."
    )
    groups = [("", 3 if several else 2), ("published", 2), ("here", 4)]
    return Table(
        "The paper's claims by name", caption, groups, header, rows, text_columns=3 if several else 2
    )


def claim_finding(case: Checked) -> Finding:
    """What became of a claim: the paper's own numbers, and ours."""
    name = f"Claim “{case.claim.text}”"
    if len(case.claim.buffers) > 1:
        name += f", buffer {case.buffer}"
    theirs = "the published table is missing"
    if case.paper:
        theirs = (
            f"a relative gain; the published ACC, {number_text(case.paper.plain)} to "
            f"{number_text(case.paper.sharc)}, give {number_text(case.published_gain, signed=True)} % "
            f"({number_text(case.paper.difference, signed=True)} points)"
        )
    if case.sharc is None:
        return Finding(f"{name}: not in this grid.", f"In the paper {theirs}.")
    interval = "no interval (one seed)"
    if case.low == case.low:
        inside = case.low <= case.published_gain <= case.high
        low, high = number_text(case.low, signed=True), number_text(case.high, signed=True)
        interval = f"95 % interval {low} to {high} %"
        interval += f"; the published gain lies {'in' if inside else 'out'}side it" if case.paper else ""
    label = f", {case.label}" if case.label else ""
    text = (
        f"{name}: here {number_text(case.gain, signed=True)} % "
        f"({number_text(case.plain.acc)} to {number_text(case.sharc.acc)}, {interval}){label}."
    )
    return Finding(text, f"In the paper {theirs}, with {SETTING}. Here: backbone {case.sharc.backbone}.")


def _ours(case: Checked) -> list[Item]:
    points = case.sharc.acc - case.plain.acc
    interval = DASH
    if case.low == case.low:
        interval = f"[{number_text(case.low, signed=True)}, {number_text(case.high, signed=True)}] %"
    return [
        _from_to(case.plain.acc, case.sharc.acc),
        _percent(case.gain),
        Item(interval, case.low),
        Item(number_text(points, signed=True), points),
    ]


def _from_to(before: float, after: float) -> Item:
    return Item(f"{number_text(before)} to {number_text(after)}", after)


def _percent(value: float) -> Item:
    return Item(DASH if value != value else f"{number_text(value, signed=True)} %", value)
