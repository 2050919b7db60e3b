"""Results under frozen, drifting and adapted batch norm, compared with each other and the published ones.

SHARC's published code freezes the backbone's weights and leaves its batch norm in train mode. Rows of the
grid that were run on one network under several batch norms show the effect of that alone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sharc_core.backbones.names import BATCH_NORMS, network_and_batch_norm
from sharc_core.common.deferred import pandas as pd
from sharc_core.common.files import write_text
from sharc_core.common.formats import DASH, escape_markdown, mean_text, natural_key, number_text
from sharc_core.provenance.lineage import csv_text, lineage, markdown_text
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.claims import Checked, check_claims
from sharc_core.results.comparisons import Count, Setup, below_here, below_paper, count, setups
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.published import SETTING, SOURCE, published_for, published_lookup, published_pairs
from sharc_core.results.statistics import PairedTest, paired_test
from sharc_core.results.summary import (
    SETTINGS,
    Entry,
    buffer_item,
    model_label,
    row_key,
    runs_of,
    seeds_text,
    summarise,
    varying_settings,
)
from sharc_core.results.table_formats import Item, Table, interval_text, to_markdown

FROZEN, DRIFTING, ADAPTED = BATCH_NORMS
NEAR = 1.0  # percentage points; the share of a shorter distance would mostly be noise
NOTHING = "No row of the grid was run on one network under frozen batch norm and another one."


@dataclass(frozen=True)
class Comparison:
    """One row of the grid on one network under several batch norms.

    entries: by batch norm, frozen among them. tests: ACC minus that under frozen over the common seeds, by
    batch norm without frozen. published: the paper's values of the row, None where it has none.
    """

    network: str
    entries: dict[str, Entry]
    tests: dict[str, PairedTest]
    published: dict[str, float] | None

    @property
    def frozen(self) -> Entry:
        """Return the row under frozen batch norm."""
        return self.entries[FROZEN]

    def distance(self, batch_norm: str) -> float:
        """Return the published ACC minus the mean ACC under frozen, in percentage points; NaN without one.

        The mean is over the seeds that were run under both, like that of the difference.
        """
        other = self.entries.get(batch_norm)
        if other is None or not self.published:
            return float("nan")
        common = [acc for seed, acc in self.frozen.acc_by_seed.items() if seed in other.seeds]
        return self.published["acc_mean"] - sum(common) / len(common) if common else float("nan")

    def share(self, batch_norm: str) -> float:
        """Return the percentage of the distance that a batch norm covers; NaN for a distance up to NEAR."""
        test = self.tests.get(batch_norm)
        if test is None or not abs(self.distance(batch_norm)) > NEAR:
            return float("nan")
        return 100 * test.difference / self.distance(batch_norm)


def comparisons(entries: Sequence[Entry], published: pd.DataFrame) -> list[Comparison]:
    """Return the rows that were run on one network under frozen and another batch norm, in order.

    Both must have common seeds. entries: of all scenarios. published: published.load_published or
    no_published.
    """
    lookup = published_lookup(published)
    rows: dict[tuple, dict[str, Entry]] = {}
    for entry in entries:
        network, batch_norm = network_and_batch_norm(entry.backbone)
        key = (network, entry.scenario, entry.dataset, entry.budget, *entry.row)
        rows.setdefault(key, {})[batch_norm] = entry
    compared = []
    for (network, *_), row in rows.items():
        tests = {
            name: test
            for name in BATCH_NORMS
            if name != FROZEN and {name, FROZEN} <= set(row) and (test := _test(row[FROZEN], row[name])).n
        }
        if tests:
            kept = {name: row[name] for name in BATCH_NORMS if name == FROZEN or name in tests}
            compared.append(Comparison(network, kept, tests, published_for(row[FROZEN], lookup)))
    return sorted(compared, key=_order)


def _test(frozen: Entry, other: Entry) -> PairedTest:
    before, after = frozen.acc_by_seed, other.acc_by_seed
    seeds = [seed for seed in before if seed in after]
    return paired_test([before[seed] for seed in seeds], [after[seed] for seed in seeds])


def _order(comparison: Comparison) -> tuple:
    entry = comparison.frozen
    place = (scenario_key(entry.scenario), natural_key(comparison.network), natural_key(entry.dataset))
    return (*place, str(entry.budget or ""), row_key(entry))


def batch_norm_tables(entries: Sequence[Entry], published: pd.DataFrame) -> list[Table]:
    """Return one table per scenario and network: ACC and BWT under each batch norm, and the published ACC."""
    blocks: dict[tuple, list[Comparison]] = {}
    for comparison in comparisons(entries, published):
        blocks.setdefault((comparison.frozen.scenario, comparison.network), []).append(comparison)
    return [_table(block) for block in blocks.values()]


def _table(block: Sequence[Comparison]) -> Table:
    frozen = [comparison.frozen for comparison in block]
    names = [name for name in BATCH_NORMS if any(name in c.entries for c in block)]
    other = names[1]  # drifting where that was run
    budgets = {entry.budget for entry in frozen if entry.budget is not None}
    varying = varying_settings(frozen)
    by_protocol = "protocol" in varying
    words = ["Data set", *(["Budget"] if len(budgets) > 1 else []), "Buffer", "Model"]
    words += ["Protocol"] if by_protocol else []
    header = [*words, "paper", *names, FROZEN, other, "ACC", "95 % interval", "% of the distance"]
    groups = [("", len(words)), ("ACC", 1 + len(names)), ("BWT", 2), (f"{other} - frozen", 3)]
    rows, breaks = [], []
    for index, comparison in enumerate(block):
        entry = comparison.frozen
        if index and entry.dataset != frozen[index - 1].dataset:
            breaks.append(index)
        row = [Item(entry.dataset), *([Item(entry.budget or DASH)] if len(budgets) > 1 else [])]
        row += [buffer_item(entry), Item(model_label(entry, [n for n in varying if n != "protocol"]))]
        row += [Item(DASH if entry.buffer is None else entry.protocol)] if by_protocol else []
        paper = comparison.published
        row.append(_mean(paper["acc_mean"], paper["acc_std"]) if paper else Item(DASH))
        row += [_metric(comparison.entries.get(name), "acc") for name in names]
        row += [_metric(comparison.entries.get(name), "bwt") for name in (FROZEN, other)]
        rows.append(row + _difference(comparison, other))
    title = f"Batch norm. {scenario_name(frozen[0].scenario)}, network {block[0].network}"
    return Table(title, _caption(block, names), groups, header, rows, breaks, text_columns=len(words))


def _metric(entry: Entry | None, name: str) -> Item:
    return _mean(entry.mean[name], entry.std[name]) if entry else Item(DASH)


def _mean(mean: float, std: float) -> Item:
    return Item(mean_text(mean, std), mean)


def _difference(comparison: Comparison, batch_norm: str) -> list[Item]:
    test, share = comparison.tests.get(batch_norm), comparison.share(batch_norm)
    if test is None:
        return [Item(DASH)] * 3
    return [
        Item(number_text(test.difference, signed=True), test.difference),
        Item(interval_text(test.low, test.high), test.low),
        Item(_percent(share), share),
    ]


def _percent(share: float) -> str:
    """Format without decimals, never as "-0"; NaN as a dash."""
    return DASH if share != share else f"{round(share)}"


def _caption(block: Sequence[Comparison], names: Sequence[str]) -> str:
    network, other = block[0].network, names[1]
    described = "; ".join(f"{name}: {BATCH_NORMS[name]}" for name in names)
    return (
        "Percent, mean ± sample standard deviation. The network and its weights are the same under every "
        f"batch norm. {described}. {other} - frozen: difference of ACC, seed by seed, with its 95 % "
        "Student-t interval, not corrected for the number of comparisons. % of the distance: that difference "
        "as a share of the published minus the frozen mean ACC; above 100 it passes the published mean, "
        "below 0 it leads away from it; a dash where nothing was published or frozen lies within "
        f"{NEAR:g} point of it. "
        f"Backbone here: {network}. paper: {SOURCE}, which has its own backbone ({SETTING}). "
        f"{seeds_text([entry for c in block for entry in c.entries.values()])}."
    )


def batch_norm_findings(entries: Sequence[Entry], published: pd.DataFrame) -> list[str]:
    """Return one sentence per published number in the comparisons, then one per claim of the paper.

    Claims are counted over the rows of the comparisons only. A claim that they cannot answer is left out.
    """
    compared = comparisons(entries, published)
    numbers: dict[tuple, list[Comparison]] = {}
    for comparison in compared:
        if comparison.published:
            entry = comparison.frozen
            key = (entry.scenario, entry.dataset, entry.buffer, entry.method, entry.variant)
            numbers.setdefault(key, []).append(comparison)
    lookup = published_lookup(published)
    ways = _ways(compared)
    claims = [_improves(ways), *_claims_by_name(ways, lookup), _recall(compared), _below_sgd(ways, lookup)]
    return [*map(_number, numbers.values()), *filter(None, claims)]


def _number(rows: Sequence[Comparison]) -> str:
    """State a published number and every row that it belongs to."""
    entry, paper = rows[0].frozen, rows[0].published
    assert paper is not None
    place = [model_label(entry, []), entry.dataset, scenario_name(entry.scenario)]
    place += [] if entry.buffer is None else [f"buffer {entry.buffer}"]
    labels = _row_labels(rows)
    here = "; ".join(f"{label} {_values(row)}" for label, row in zip(labels, rows, strict=True))
    return f"{', '.join(place)}: published {mean_text(paper['acc_mean'], paper['acc_std'])}; {here}."


def _row_labels(rows: Sequence[Comparison]) -> list[str]:
    """Return `here`, or `here (code, theta 0.4)` with the settings in which the rows differ."""
    several = len({row.network for row in rows}) > 1, len({row.frozen.budget for row in rows}) > 1
    varying = varying_settings([row.frozen for row in rows])
    labels = []
    for row in rows:
        words = [row.network] * several[0] + [f"budget in {row.frozen.budget}"] * several[1]
        label = model_label(row.frozen, varying).partition("(")[2].removesuffix(")")
        words += [label] if label else []
        labels.append(f"here ({', '.join(words)})" if words else "here")
    return labels


def _values(row: Comparison) -> str:
    parts = [f"frozen {number_text(row.frozen.acc)}"]
    for name, test in row.tests.items():
        parts.append(f"{name} {number_text(row.entries[name].acc)} ({_movement(row, name, test)})")
    return ", ".join(parts)


def _movement(row: Comparison, batch_norm: str, test: PairedTest) -> str:
    """State the effect of a batch norm on the distance; a share only if the interval excludes zero."""
    share = row.share(batch_norm)
    beyond = number_text(abs(test.difference) - abs(row.distance(batch_norm)))
    if test.low <= 0 <= test.high:
        text = "no difference from frozen is shown"
    elif share != share:
        text = f"frozen lies within {NEAR:g} point of the published mean"
    elif share < 0:
        text = "moves away from the published mean"
    elif share <= 100:
        text = f"covers {_percent(share)} % of the distance"
    elif share <= 200:
        text = f"covers {_percent(share)} % of the distance, to {beyond} points beyond the published mean"
    else:
        text = (
            f"passes the published mean by {beyond} points, {_percent(share)} % of the distance, and lies "
            "further from it than frozen"
        )
    interval = ", one seed, no interval" if test.low != test.low else f" {interval_text(test.low, test.high)}"
    return f"{text}; {batch_norm} - frozen = {number_text(test.difference, signed=True)}{interval}"


# --- claims ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A setup of the grid under one batch norm. place: both in words, for a sentence with `under`."""

    batch_norm: str
    place: str
    setup: Setup


def _ways(compared: Sequence[Comparison]) -> list[Way]:
    """Return the setups of the compared rows per batch norm, with the network's name as backbone."""
    ways = []
    for name in BATCH_NORMS:
        rows = [replace(c.entries[name], backbone=c.network) for c in compared if name in c.entries]
        for setup in setups(rows) if rows else []:
            ways.append(Way(name, f"{name} ({setup.label})" if setup.label else name, setup))
    return ways


def _improves(ways: Sequence[Way]) -> str | None:
    ways = [way for way in ways if way.setup.pairs]
    if not ways:
        return None
    texts, raised, shown, intervals = [], [], [], False
    for way in ways:
        tests = [pair.test for pair in way.setup.pairs]
        up, above = count(tests, lambda t: t.difference > 0), count(tests, lambda t: t.low > 0)
        interval = "no interval, one seed"
        if all(test.low == test.low for test in tests):
            interval, intervals = f"{above.count} with a 95 % interval above zero", True
        texts.append(f"{up} pairs under {way.place} ({interval})")
        raised += [way.place] if up.count == up.of else []
        shown += [way.place] if above.count == above.of else []
    text = (
        f"Claim “SHARC improves all methods”: SHARC raises the mean ACC in {_listed(texts)}; every pair is "
        f"raised under {_listed(raised)}"
    )
    return text + (f", with every interval above zero under {_listed(shown)}." if intervals else ".")


def _claims_by_name(ways: Sequence[Way], lookup: dict) -> list[str]:
    pairs = [(way.place, pair.plain, pair.sharc) for way in ways for pair in way.setup.pairs]
    cases: dict[tuple, list[Checked]] = {}
    for case in check_claims(pairs, published_pairs(lookup)):
        if case.sharc is not None:
            cases.setdefault((case.claim, case.buffer), []).append(case)
    return [_claim(group) for group in cases.values()]


def _claim(cases: Sequence[Checked]) -> str:
    """State a relative gain that the paper names, under every batch norm."""
    first, texts, holding = cases[0], [], []
    for case in cases:
        interval = "no interval, one seed"
        if case.low == case.low:
            low, high = number_text(case.low, signed=True), number_text(case.high, signed=True)
            interval = f"95 % interval {low} to {high} %"
        texts.append(f"{number_text(case.gain, signed=True)} % under {case.label} ({interval})")
        holding += [case.label] if case.low <= case.published_gain <= case.high else []
    name = first.claim.text + (f", buffer {first.buffer}" if len(first.claim.buffers) > 1 else "")
    text = f"Claim “{name}”: the relative gain is {_listed(texts)}"
    if first.paper:
        gain = number_text(first.published_gain, signed=True)
        text += f"; the published {gain} % lies inside the interval under {_listed(holding)}"
    return f"{text}."


def _recall(compared: Sequence[Comparison]) -> str | None:
    errors: dict[tuple[str, str], list[float]] = {}
    for name in BATCH_NORMS:
        for comparison in compared:
            entry = comparison.entries.get(name)
            if entry and entry.is_sharc and (error := entry.costs["recall_mse"]) == error:
                errors.setdefault((name, str(entry.associative_memory)), []).append(error)
    if not errors:
        return None
    texts = []
    for (name, memory), values in errors.items():
        low, high = f"{min(values):.3g}", f"{max(values):.3g}"
        extent = "" if low == high else f", {low} to {high}"
        rows = f"mean of {len(values)} rows{extent}" if len(values) > 1 else "1 row"
        texts.append(f"{sum(values) / len(values):.3g} under {name} with {memory} ({rows})")
    text = (
        "Claim “near-perfect recall”: the mean squared error over the dropped entries is "
        f"{_listed(texts)}; features have another scale under each batch norm, so that errors under one do "
        "not compare with those under another"
    )
    if any(memory == "modern_hopfield" for _, memory in errors):
        text += (
            "; modern_hopfield returns a stored map, so its recall is exact by construction where that is "
            "the sample's own"
        )
    return f"{text}."


def _below_sgd(ways: Sequence[Way], lookup: dict) -> str | None:
    """Count plain rows below SGD. Setups that differ only in SHARC share their plain rows, counted once."""
    rows: dict[tuple, tuple[str, list[str], Count]] = {}
    for way in ways:
        below, plain = below_here(way.setup, "plain").rows, [e for e in way.setup.entries if not e.is_sharc]
        if below.of:
            sharc = next((e.protocol for e in way.setup.entries if e.is_sharc), "")
            budget = next((e.budget for e in plain if e.budget is not None), "")
            key = (way.batch_norm, tuple(id(entry) for entry in plain))
            rows.setdefault(key, (way.batch_norm, [plain[0].backbone, f"{budget}", sharc], below))
    if not rows:
        return None
    differing = [len({words[i] for _, words, _ in rows.values()}) > 1 for i in range(3)]
    texts, beaten = [], []
    for name, words, below in rows.values():
        label = ", ".join(w for w, differs in zip(words, differing, strict=True) if differs and w)
        place = f"{name} ({label})" if label else name
        texts.append(f"{below} plain rows under {place}")
        beaten += [place] if below.count == below.of else []
    paper = below_paper(lookup, "plain").rows
    text = (
        "Claim “SGD without memory beats replay in Task-IL”: SGD has a higher mean ACC than "
        f"{_listed(texts)}{f' ({paper} in the paper)' if paper.of else ''}"
    )
    return f"{text}; it beats every plain row under {_listed(beaten)}."


def _listed(texts: Sequence[str]) -> str:
    """Join as `a, b and c`; `no batch norm` for an empty list."""
    *some, last = texts or ["no batch norm"]
    return f"{', '.join(some)} and {last}" if some else last


# --- files -----------------------------------------------------------------------------------------


def write_batch_norm(
    runs: pd.DataFrame, published: pd.DataFrame, folder: Path | str, config: str = UNKNOWN
) -> list[Path]:
    """Write batch_norm.md and batch_norm.csv and return the paths.

    All runs are compared, those of sub-grids too. runs: results.runs_table. published: as for
    comparisons(). config: the grid's hash.
    """
    entries, origin = summarise(runs, None), lineage(runs_of(runs, None), config)
    sentences = batch_norm_findings(entries, published) or [NOTHING]
    lines = [f"- {escape_markdown(text)}" for text in sentences]
    tables = "\n".join(map(to_markdown, batch_norm_tables(entries, published)))
    text = "\n".join(["# Batch norm: frozen or drifting", "", *lines, "", tables])
    paths = [Path(folder) / "batch_norm.md", Path(folder) / "batch_norm.csv"]
    write_text(paths[0], markdown_text(text, origin))
    write_text(paths[1], csv_text(tidy(entries, published), origin))
    return paths


def tidy(entries: Sequence[Entry], published: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons at full precision, one row each: ACC and BWT in percent per batch norm."""
    compared = comparisons(entries, published)
    names = [name for name in BATCH_NORMS if any(name in c.entries for c in compared)]
    axes = ["scenario", "dataset", "budget", "buffer", "method", "variant", *SETTINGS]
    columns = ["network", *axes, "paper_acc_mean", "paper_acc_std"]
    for name in names:
        columns += [f"{name}_{metric}_{kind}" for metric in ("acc", "bwt") for kind in ("mean", "std")]
        columns.append(f"{name}_recall_mse")
    for name in names[1:]:
        columns += [f"{name}_{kind}" for kind in ("seeds", "difference", "low", "high", "p_t", "share")]
    rows = []
    for comparison in compared:
        row = {name: getattr(comparison.frozen, name) for name in axes} | {"network": comparison.network}
        paper = comparison.published or {}
        row |= {f"paper_{name}": paper.get(name) for name in ("acc_mean", "acc_std")}
        for name, entry in comparison.entries.items():
            for metric in ("acc", "bwt"):
                row |= {
                    f"{name}_{metric}_mean": entry.mean[metric],
                    f"{name}_{metric}_std": entry.std[metric],
                }
            row[f"{name}_recall_mse"] = entry.costs["recall_mse"]
        for name, test in comparison.tests.items():
            values = {key: asdict(test)[key] for key in ("difference", "low", "high", "p_t")}
            values |= {"seeds": test.n, "share": comparison.share(name)}
            row |= {f"{name}_{key}": value for key, value in values.items()}
        rows.append(row)
    integers = {"buffer": "Int64"} | {f"{name}_seeds": "Int64" for name in names[1:]}
    return pd.DataFrame(rows, columns=columns).astype(integers)
