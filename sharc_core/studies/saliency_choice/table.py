"""Table and sentences of the study `saliency_choice`: paired differences between saliencies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.formats import DASH, bytes_text, mean_text, number_text
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.comparisons import verdict
from sharc_core.results.display_names import method_name, scenario_key, scenario_name
from sharc_core.results.statistics import PairedTest, paired_test
from sharc_core.results.summary import Entry, sample_std, setting_text, summarise, unique
from sharc_core.results.table_formats import Item, Table, interval_text
from sharc_core.studies.measured_tables import write_measured_tables

PAPERS, CONTROL, PLAIN = "gradient", "random", "plain"  # what a saliency is compared with
REFERENCES = (PAPERS, CONTROL, PLAIN)
AGAINST = {"raised": "better", "lowered": "worse"}
HEADS = {"linear": "linear head", "mlp": "MLP head"}


@dataclass(frozen=True)
class Case:
    """A saliency under one setting, on one data set and backbone. head: its kind. entry: of the runs."""

    head: str
    entry: Entry

    @property
    def share(self) -> str:
        """`theta 0.5` or `mass 0.8`; empty for a plain run."""
        return setting_text(self.entry, "theta") or setting_text(self.entry, "mass")

    @property
    def budget(self) -> str:
        """The buffer with its unit."""
        unit = (self.entry.budget_unit or "").replace("_", " ")
        if self.entry.budget_unit == "total_bytes":
            return f"{self.entry.buffer_text} ({unit})"
        return f"buffer {self.entry.buffer_text} ({unit})"

    @property
    def setting(self) -> tuple:
        """All but the saliency, and where it was run."""
        return (self.entry.scenario, self.head, self.budget, self.entry.method) + (
            self.share,
            self.entry.associative_memory,
        )

    @property
    def place(self) -> tuple[str, str]:
        """Data set and backbone."""
        return self.entry.dataset, self.entry.backbone


def cases_of(rows: pd.DataFrame) -> list[Case]:
    """Return every case of the rows of the jobs."""
    return [
        Case(str(head), entry)
        for head, group in rows.groupby("head", sort=False)
        for entry in summarise(group, None)
    ]


def indexed(cases: Sequence[Case]) -> dict[tuple, Case]:
    """Return the cases by place, setting and saliency; plain runs by what SHARC's settings leave out."""
    return {
        (case.place, case.setting, case.entry.saliency)
        if case.entry.is_sharc
        else (case.place, case.setting[:4], PLAIN): case
        for case in cases
    }


def reference_of(case: Case, index: dict[tuple, Case], name: str) -> Case | None:
    """Return the case that differs in the saliency alone, or the plain run in the same budget, if any."""
    return index.get((case.place, case.setting[:4] if name == PLAIN else case.setting, name))


def mean_difference(pairs: Sequence[tuple[Case, Case]]) -> PairedTest | None:
    """Test the mean over pairs of ACC minus the reference's, seed by seed; None without a common seed."""
    accs = [(reference.entry.acc_by_seed, case.entry.acc_by_seed) for case, reference in pairs]
    common = sorted(set.intersection(*(set(a) & set(b) for a, b in accs))) if accs else []
    if not common:
        return None
    return paired_test(
        [fmean(a[seed] for a, _ in accs) for seed in common],
        [fmean(b[seed] for _, b in accs) for seed in common],
    )


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per saliency and setting, on each data set and in the mean over data sets (`all`).

    acc_mean and acc_std are over seeds, in percent. The differences from each of REFERENCES are paired by
    seed, with their 95 % Student-t interval and its verdict.
    """
    cases = cases_of(rows)
    index = indexed(cases)
    groups: dict[tuple, list[Case]] = {}
    for case in cases:
        if case.entry.is_sharc:
            groups.setdefault((*case.setting, case.entry.saliency), []).append(case)
    lines = []
    for group in groups.values():
        parts = [[case] for case in group] + ([group] if len(group) > 1 else [])
        lines += [_line(part, index) for part in parts]
    return pd.DataFrame(lines)


def _line(part: Sequence[Case], index: dict[tuple, Case]) -> dict:
    first, is_mean = part[0], len(part) > 1
    scenario, head, budget, method, share, memory = first.setting
    common = sorted(set.intersection(*(set(case.entry.seeds) for case in part)))
    accs = pd.Series([fmean(case.entry.acc_by_seed[seed] for case in part) for seed in common])
    line = {
        "scenario": scenario,
        "head": head,
        "budget": budget,
        "method": method,
        "share": share,
        "associative_memory": memory,
        "saliency": first.entry.saliency,
        "dataset": "all" if is_mean else first.entry.dataset,
        "backbone": "all" if is_mean else first.entry.backbone,
        "seeds": len(common),
        "acc_mean": accs.mean(),
        "acc_std": sample_std(accs.to_numpy()),
        "samples_stored": fmean(case.entry.costs["samples_stored"] for case in part),
        "total_bytes": fmean(case.entry.total_bytes for case in part),
    }
    for name in REFERENCES:
        pairs = [(case, other) for case in part if (other := reference_of(case, index, name)) is not None]
        test = mean_difference(pairs) if len(pairs) == len(part) else None
        line[f"over_{name}"] = test.difference if test else float("nan")
        line[f"over_{name}_low"] = test.low if test else float("nan")
        line[f"over_{name}_high"] = test.high if test else float("nan")
        line[f"over_{name}_verdict"] = against(test)
    return line


def against(test: PairedTest | None) -> str:
    """Return `better`, `worse` or `not told apart`; a dash without an interval."""
    word = DASH if test is None else verdict(test.low, test.high)
    return AGAINST.get(word, word)


def write_choice_tables(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write saliency_choice.csv, .md and .tex; return the paths. config: the grid's hash."""
    origin = lineage(rows, config)
    return write_measured_tables(
        "saliency_choice",
        folder,
        origin,
        "Which saliency serves SHARC best?",
        summary(rows),
        choice_findings(rows),
        choice_tables(rows),
    )


def choice_tables(rows: pd.DataFrame) -> list[Table]:
    """Return one table per scenario, head and budget: the mean over data sets, or the only data set."""
    lines = summary(rows)
    if (lines.dataset == "all").any():
        lines = lines[lines.dataset == "all"]
    groups = lines.groupby(["scenario", "head", "budget"], sort=False)
    order = sorted(groups.groups, key=lambda key: scenario_key(key[0]))
    return [_table(groups.get_group(key), key) for key in order]


def _table(lines: pd.DataFrame, key: tuple[str, str, str]) -> Table:
    scenario, head, budget = key
    header = ["Setting", "Saliency", "ACC", "samples", "bytes"]
    header += [text for name in REFERENCES for text in (f"over {name}", "")]
    rows: list[list[Item]] = []
    breaks: list[int] = []
    previous = ""
    for line in lines.sort_values(["method", "share", "associative_memory"], kind="stable").to_dict(
        "records"
    ):
        setting = f"{method_name(line['method'])}+, {line['share']}, {line['associative_memory']}"
        if previous and setting != previous:
            breaks.append(len(rows))
        previous = setting
        items = [Item(setting), Item(line["saliency"])]
        items.append(Item(mean_text(line["acc_mean"], line["acc_std"]), line["acc_mean"]))
        items.append(Item(f"{line['samples_stored']:.0f}", line["samples_stored"]))
        items.append(Item(bytes_text(line["total_bytes"]), line["total_bytes"]))
        for name in REFERENCES:
            interval = interval_text(line[f"over_{name}_low"], line[f"over_{name}_high"])
            difference = number_text(line[f"over_{name}"], signed=True)
            items.append(Item(f"{difference} {interval}", line[f"over_{name}"]))
            items.append(Item(line[f"over_{name}_verdict"]))
        rows.append(items)
    caption = (
        f"ACC in percent, mean ± sample standard deviation over {lines.seeds.max()} seeds"
        f"{', of the mean over data sets' if (lines.dataset == 'all').all() else ''}. Differences in "
        "percentage points from the paper's saliency (gradient), from random channels and from plain replay "
        "in the same budget, paired by seed, with the 95 % Student-t interval, not corrected for their "
        "number."
    )
    title = f"{scenario_name(scenario)}, {HEADS.get(head, head)}, {budget}"
    return Table(title, caption, [("", len(header))], header, rows, breaks)


# --- sentences ---------------------------------------------------------------------------------------------


def choice_findings(rows: pd.DataFrame) -> list[str]:
    """Return what is better than the paper's saliency, per scenario, budget and share, and what is equal."""
    cases = cases_of(rows)
    index = indexed(cases)
    sharc = [case for case in cases if case.entry.is_sharc]
    sentences = []
    for scenario in unique((case.entry.scenario for case in sharc), scenario_key):
        here = [case for case in sharc if case.entry.scenario == scenario]
        for budget in dict.fromkeys(case.budget for case in here):
            for share in dict.fromkeys(case.share for case in here):
                chosen = [case for case in here if (case.budget, case.share) == (budget, share)]
                sentence = _compared(chosen, index)
                if sentence:
                    where = f"{scenario_name(scenario)}, {budget}, {share}, mean over {_averaged(chosen)}"
                    sentences.append(f"{where}: {sentence}.")
    return [*sentences, *_equal(sharc)]


def _averaged(chosen: Sequence[Case]) -> str:
    counts: list[tuple[str, Callable[[Case], object]]] = [
        ("data sets", lambda case: case.place),
        ("heads", lambda case: case.head),
        ("associative memories", lambda case: case.entry.associative_memory),
        ("methods", lambda case: case.entry.method),
    ]
    words = [word for word, of in counts if len({of(case) for case in chosen}) > 1]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "seeds"


def _compared(chosen: Sequence[Case], index: dict[tuple, Case]) -> str:
    """Return the words on each saliency against the paper's, the largest difference first."""
    found: dict[str, list[tuple[float, str]]] = {"better": [], "worse": [], "not told apart": [], DASH: []}
    for name in dict.fromkeys(case.entry.saliency for case in chosen):
        if name == PAPERS:
            continue
        own = [case for case in chosen if case.entry.saliency == name]
        pairs = [(case, other) for case in own if (other := reference_of(case, index, PAPERS)) is not None]
        test = mean_difference(pairs)
        if test is not None:
            text = f"{name} {number_text(test.difference, signed=True)}"
            interval = interval_text(test.low, test.high)
            found[against(test)].append((test.difference, text if interval == DASH else f"{text} {interval}"))
    listed = {
        word: ", ".join(text for _, text in sorted(texts, reverse=True)) for word, texts in found.items()
    }
    parts = [f"{word} than {PAPERS}: {listed[word]}" for word in ("better", "worse") if listed[word]]
    if listed["not told apart"]:
        parts.append(f"not told apart from {PAPERS}: {listed['not told apart']}")
    if listed[DASH]:
        parts.append(f"against {PAPERS}, without an interval: {listed[DASH]}")
    return "; ".join(parts)


def _equal(sharc: Sequence[Case]) -> list[str]:
    """State under which share and memory all saliencies have the same accuracies, seed by seed."""
    sentences = []
    kinds = dict.fromkeys((case.share, case.entry.associative_memory) for case in sharc)
    for share, memory in kinds:
        accs: dict[tuple, list[tuple]] = {}
        for case in sharc:
            if (case.share, case.entry.associative_memory) == (share, memory):
                accs.setdefault((*case.setting, *case.place), []).append(case.entry.accs)
        if all(len(values) > 1 and len(set(values)) == 1 for values in accs.values()):
            sentences.append(
                f"With {memory} and {share} all saliencies have the same accuracies: it returns what was "
                "dropped, and all of them store the same samples."
            )
    return sentences
