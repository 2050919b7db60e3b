"""Table and sentences of the study `saliency_choice`: paired differences between saliencies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.formats import DASH, bytes_text, mean_text, number_text
from sharc_core.memory.budget_units import IN_BYTES, bytes_of
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.comparisons import LEVEL
from sharc_core.results.display_names import method_name, scenario_key, scenario_name
from sharc_core.results.statistics import PairedTest, holm, paired_test
from sharc_core.results.summary import Entry, sample_std, setting_text, summarise
from sharc_core.results.table_formats import Item, Table, interval_text
from sharc_core.studies.measured_tables import write_measured_tables

PAPERS, CONTROL, PLAIN = "gradient", "random", "plain"  # what a saliency is compared with
REFERENCES = (PAPERS, CONTROL, PLAIN)
BETTER, WORSE, UNCLEAR = "better", "worse", "not told apart"
EQUAL = "equal"  # all saliencies have the same accuracies, so that there is nothing to test
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
    def limit(self) -> str:
        """The buffer with its unit and split, which plain runs have as well; different for different ones."""
        words = [(self.entry.budget_unit or "").replace("_", " ")]
        if self.entry.budget_split not in (None, "equal"):
            is_carried = self.entry.budget_split == "carry"
            words.append("carried over" if is_carried else f"split {self.entry.budget_split}")
        return f"{self._buffer_text} ({', '.join(words)})"

    @property
    def _buffer_text(self) -> str:
        size = self.entry.buffer
        if self.entry.budget_unit != "total_bytes" or size is None:
            return f"buffer {self.entry.buffer_text}"
        text = bytes_text(size)  # rounded
        return text if bytes_of(text) == size else f"{size:,} B"

    @property
    def budget(self) -> str:
        """The limit, and whether the associative memory is charged to it where that is not the default."""
        unit, is_charged = self.entry.budget_unit, self.entry.count_associative_memory
        if not self.entry.is_sharc or unit not in IN_BYTES or is_charged == (unit == "total_bytes"):
            return self.limit
        return f"{self.limit.removesuffix(')')}, {setting_text(self.entry, 'count_associative_memory')})"

    @property
    def setting(self) -> tuple:
        """All but the saliency, and where it was run."""
        return (self.entry.scenario, self.head, self.budget, *self.kind)

    @property
    def kind(self) -> tuple[str, str, str | None]:
        """Method, share and associative memory."""
        return self.entry.method, self.share, self.entry.associative_memory

    @property
    def plain(self) -> tuple:
        """The key of the plain run in the same budget, on the same data set and backbone."""
        return (self.place, (self.entry.scenario, self.head, self.limit, self.entry.method), PLAIN)

    @property
    def key(self) -> tuple:
        """What distinguishes it from all other cases of the study."""
        return (self.place, self.setting, self.entry.saliency) if self.entry.is_sharc else self.plain

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
    """Return the cases by their keys. Raises ValueError for two of one key and for a seed twice in one."""
    index: dict[tuple, Case] = {}
    for case in cases:
        if case.key in index or len(set(case.entry.seeds)) < len(case.entry.seeds):
            raise ValueError(f"rows of two cells that differ in nothing that the study compares: {case.key}")
        index[case.key] = case
    return index


def reference_of(case: Case, index: dict[tuple, Case], name: str) -> Case | None:
    """Return the case that differs in the saliency alone, or the plain run in the same budget, if any."""
    return index.get(case.plain if name == PLAIN else (case.place, case.setting, name))


def insensitive(cases: Sequence[Case]) -> list[tuple[str, str, str | None]]:
    """Return the kinds with which all saliencies have the same accuracies, seed by seed, everywhere.

    A memory that returns whatever was dropped makes them equal, at a theta that stores equally many samples.
    """
    accs: dict[tuple, dict[tuple, list[dict[int, float]]]] = {}
    for case in cases:
        if case.entry.is_sharc:
            groups = accs.setdefault(case.kind, {})
            groups.setdefault((case.setting, case.place), []).append(case.entry.acc_by_seed)
    return [
        kind
        for kind, groups in accs.items()
        if all(len(values) > 1 and all(v == values[0] for v in values) for values in groups.values())
    ]


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
    seed, with their 95 % Student-t interval and the verdict after Holm's correction for all differences from
    this reference on this data set, or in the mean. EQUAL ones are not among them.
    """
    cases = cases_of(rows)
    index, equal = indexed(cases), insensitive(cases)
    groups: dict[tuple, list[Case]] = {}
    for case in cases:
        if case.entry.is_sharc:
            groups.setdefault((*case.setting, case.entry.saliency), []).append(case)
    parts = []
    for group in groups.values():
        parts += [[case] for case in group] + ([group] if len(group) > 1 else [])
    lines = [_line(part) for part in parts]
    for name in REFERENCES:
        tests = [_test(part, index, name) for part in parts]
        verdicts = _verdicts(parts, tests, name, equal)
        for line, test, word in zip(lines, tests, verdicts, strict=True):
            values = (test.difference, test.low, test.high) if test else (float("nan"),) * 3
            columns = (f"over_{name}", f"over_{name}_low", f"over_{name}_high")
            line |= dict(zip(columns, values, strict=True)) | {f"over_{name}_verdict": word}
    return pd.DataFrame(lines)


def _test(part: Sequence[Case], index: dict[tuple, Case], name: str) -> PairedTest | None:
    pairs = [(case, other) for case in part if (other := reference_of(case, index, name)) is not None]
    return mean_difference(pairs) if len(pairs) == len(part) else None


def _verdicts(
    parts: Sequence[Sequence[Case]],
    tests: Sequence[PairedTest | None],
    name: str,
    equal: Sequence[tuple[str, str, str | None]],
) -> list[str]:
    """Return the verdict of each line, a dash without a test; see `summary`."""
    words = [DASH] * len(parts)
    families: dict[tuple[str, ...], dict[int, PairedTest]] = {}
    for i, (part, test) in enumerate(zip(parts, tests, strict=True)):
        if test is None or part[0].entry.saliency == name:
            continue
        if name != PLAIN and part[0].kind in equal:
            words[i] = EQUAL
        else:
            families.setdefault(part[0].place if len(part) == 1 else (), {})[i] = test
    for family in families.values():
        for i, word in zip(family, told_apart(list(family.values())), strict=True):
            words[i] = word
    return words


def told_apart(tests: Sequence[PairedTest]) -> list[str]:
    """Return BETTER, WORSE or UNCLEAR for each test, after Holm's correction for all; a dash for one seed."""
    return [
        DASH if p != p else UNCLEAR if p >= LEVEL else BETTER if test.difference > 0 else WORSE
        for test, p in zip(tests, holm([test.p_t for test in tests]), strict=True)
    ]


def _line(part: Sequence[Case]) -> dict:
    first, is_mean = part[0], len(part) > 1
    scenario, head, budget, method, share, memory = first.setting
    common = sorted(set.intersection(*(set(case.entry.seeds) for case in part)))
    accs = pd.Series([fmean(case.entry.acc_by_seed[seed] for case in part) for seed in common])
    return {
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
            if line["saliency"] == name:
                items += [Item(DASH)] * 2
                continue
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
        f"number. Better and worse: p < {LEVEL} after Holm's correction for all differences from this "
        "reference in the study's tables. Equal: all saliencies have the same accuracies with this memory."
    )
    title = f"{scenario_name(scenario)}, {HEADS.get(head, head)}, {budget}"
    return Table(title, caption, [("", len(header))], header, rows, breaks)


# --- sentences ---------------------------------------------------------------------------------------------


def choice_findings(rows: pd.DataFrame) -> list[str]:
    """Return what is told apart from the paper's saliency, per scenario, budget, share and memory.

    Told apart is p < LEVEL after Holm's correction for all comparisons of the sentences. Means are over what
    else differs. Kinds with which all saliencies are equal are named and left out.
    """
    cases = cases_of(rows)
    index, equal = indexed(cases), insensitive(cases)
    groups: dict[tuple, list[Case]] = {}
    for case in cases:
        if case.entry.is_sharc and case.kind not in equal:
            key = (case.entry.scenario, case.budget, case.share, case.entry.associative_memory)
            groups.setdefault(key, []).append(case)
    order = sorted(groups, key=lambda key: scenario_key(key[0]))
    tests = {(key, name): test for key in order for name, test in _against_papers(groups[key], index).items()}
    words = dict(zip(tests, told_apart(list(tests.values())), strict=True))
    sentences = []
    for key in order:
        own = {name: (test, words[key, name]) for (other, name), test in tests.items() if other == key}
        if own:
            scenario, budget, share, memory = key
            where = f"{scenario_name(scenario)}, {budget}, {share}, associative memory {memory}"
            sentences.append(f"{where}, mean over {_averaged(groups[key])}: {_listed(own)}.")
    if set(words.values()) - {DASH}:
        sentences.append(
            f"Better and worse are p < {LEVEL} after Holm's correction for all {len(tests)} comparisons with "
            f"{PAPERS} in these sentences; intervals are not corrected."
        )
    return sentences + _equal(equal)


def _averaged(chosen: Sequence[Case]) -> str:
    counts: list[tuple[str, Callable[[Case], object]]] = [
        ("data sets", lambda case: case.place),
        ("heads", lambda case: case.head),
        ("methods", lambda case: case.entry.method),
    ]
    words = [word for word, of in counts if len({of(case) for case in chosen}) > 1]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "seeds"


def _against_papers(chosen: Sequence[Case], index: dict[tuple, Case]) -> dict[str, PairedTest]:
    """Return by saliency the test of its mean difference from the paper's."""
    pairs: dict[str, list[tuple[Case, Case]]] = {}
    for case in chosen:
        other = reference_of(case, index, PAPERS)
        if other is not None and case.entry.saliency != PAPERS:
            pairs.setdefault(str(case.entry.saliency), []).append((case, other))
    tests = {name: mean_difference(own) for name, own in pairs.items()}
    return {name: test for name, test in tests.items() if test is not None}


def _listed(own: dict[str, tuple[PairedTest, str]]) -> str:
    """Return the words on each saliency against the paper's, the largest difference first."""
    texts: dict[str, list[tuple[float, str]]] = {}
    for name, (test, word) in own.items():
        text = f"{name} {number_text(test.difference, signed=True)}"
        ends = interval_text(test.low, test.high)
        texts.setdefault(word, []).append((test.difference, text if ends == DASH else f"{text} {ends}"))
    headings = {
        BETTER: f"better than {PAPERS}",
        WORSE: f"worse than {PAPERS}",
        UNCLEAR: f"not told apart from {PAPERS}",
        DASH: f"against {PAPERS}, without an interval",
    }
    return "; ".join(
        f"{heading}: {', '.join(text for _, text in sorted(texts[word], reverse=True))}"
        for word, heading in headings.items()
        if word in texts
    )


def _equal(equal: Sequence[tuple[str, str, str | None]]) -> list[str]:
    """State under which share and memory all saliencies have the same accuracies."""
    methods: dict[tuple, list[str]] = {}
    for method, share, memory in equal:
        methods.setdefault((memory, share), []).append(method_name(method))
    return [
        f"With {memory} and {share} all saliencies have the same accuracies, seed by seed "
        f"({', '.join(names)} with SHARC). These runs are in no mean above."
        for (memory, share), names in methods.items()
    ]
