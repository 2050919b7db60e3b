"""What the results say, as sentences computed from them: the headlines of the report."""

from collections.abc import Sequence
from statistics import median

import pandas as pd

from sharc_core.common.formats import bytes_text, natural_key, number_text
from sharc_core.results.display_names import scenario_name
from sharc_core.results.pairs import Pair, equal_bytes, paired
from sharc_core.results.published import published_for, published_lookup
from sharc_core.results.summary import Entry, buffer_item, model_label, unique, varying_settings
from sharc_core.results.table_formats import Finding, Item, Table


def findings(entries: Sequence[Entry], published: pd.DataFrame) -> list[Finding]:
    """Headlines of one scenario; what the grid cannot answer (no SHARC, no SGD ...) is left out."""
    pairs = paired(entries)
    found = [
        _effect(pairs),
        *_against_sgd(entries),
        _at_equal_bytes(entries),
        _bytes_ratio(pairs),
        *_best_per_dataset(entries),
        _agreement(pairs, published),
    ]
    return [finding for finding in found if finding is not None]


def _effect(pairs: Sequence[Pair]) -> Finding | None:
    if not pairs:
        return None
    raised = sum(pair.test.difference > 0 for pair in pairs)
    above = sum(pair.test.low > 0 for pair in pairs)
    below = sum(pair.test.high < 0 for pair in pairs)
    typical = number_text(median(pair.test.difference for pair in pairs), signed=True)
    lowered = [pair for pair in pairs if pair.test.difference < 0]
    detail = (
        f"The 95 % interval of the paired difference lies above zero in {above} and below zero in {below}; "
        f"the median difference is {typical} percentage points."
    )
    if lowered:
        detail += f" Lowered: {_names([pair.sharc for pair in lowered], [pair.sharc for pair in pairs])}."
    text = (
        f"SHARC raises ACC in {raised} of {len(pairs)} comparisons with the plain method over the same seeds."
    )
    return Finding(text, detail)


def _against_sgd(entries: Sequence[Entry]) -> list[Finding]:
    """How many replay rows lose to SGD, which keeps no memory; and which."""
    baseline = {_place(e): e for e in entries if e.method == "sgd"}
    found = []
    for variant, words in (("plain", "plain replay"), ("sharc", "SHARC")):
        rows = [e for e in entries if e.buffer is not None and e.variant == variant and _place(e) in baseline]
        if rows:
            lost = [e for e in rows if e.acc < baseline[_place(e)].acc]
            text = f"{len(lost)} of {len(rows)} rows of {words} have a lower ACC than SGD without memory."
            found.append(Finding(text, f"{_names(lost, rows)}." if lost else ""))
    return found


def _at_equal_bytes(entries: Sequence[Entry]) -> Finding | None:
    compared = equal_bytes(entries)
    same = [(c.sharc, c.same) for c in compared if c.same is not None]
    other = [(c.sharc, c.other) for c in compared if c.other is not None]
    if not other:
        return None
    text = (
        f"At no more bytes, some plain row (SGD included) does as well as SHARC in "
        f"{sum(plain.acc >= sharc.acc for sharc, plain in other)} of {len(other)} cases"
    )
    if same:
        matched = sum(plain.acc >= sharc.acc for sharc, plain in same)
        text += f", and the same method with a plain buffer in {matched} of {len(same)}"
    detail = (
        "Bytes are those actually kept: episodic memory, associative memory, head and model copies. JOINT "
        "does not take part. Each case is in the table below."
    )
    return Finding(text + ".", detail)


def _bytes_ratio(pairs: Sequence[Pair]) -> Finding | None:
    ratios = [pair.sharc.total_bytes / pair.plain.total_bytes for pair in pairs if pair.plain.total_bytes]
    if not ratios:
        return None
    low, middle, high = (f"{value:.2f}" for value in (min(ratios), median(ratios), max(ratios)))
    text = f"At the same buffer SHARC keeps {middle} times the bytes of the plain method (median)."
    return Finding(text, f"From {low} to {high} times.")


def _best_per_dataset(entries: Sequence[Entry]) -> list[Finding]:
    found = []
    for place in unique((_place(e) for e in entries), lambda p: tuple(natural_key(part) for part in p)):
        rows = [e for e in entries if _place(e) == place and e.method != "joint"]
        if not rows:
            continue
        best = max(rows, key=lambda e: e.acc)
        limit = [e for e in entries if _place(e) == place and e.method == "joint"]
        text = (
            f"{_place_name(entries, place)}: best ACC {number_text(best.acc)} % with {_name(best, entries)}, "
            f"{bytes_text(best.total_bytes)}."
        )
        detail = f"JOINT, with all the data at once, reaches {number_text(limit[0].acc)} %." if limit else ""
        found.append(Finding(text, detail))
    return found


def _agreement(pairs: Sequence[Pair], published: pd.DataFrame) -> Finding | None:
    """Does SHARC help where the paper says that it helps?"""
    lookup = published_lookup(published)
    both = [
        (pair, theirs["acc_mean"] - base["acc_mean"])
        for pair in pairs
        if (theirs := published_for(pair.sharc, lookup)) and (base := published_for(pair.plain, lookup))
    ]
    if not both:
        return None
    everyone = [pair.sharc for pair, _ in both]
    against = [pair.sharc for pair, theirs in both if (pair.test.difference > 0) != (theirs > 0)]
    text = (
        f"The direction of SHARC's effect is the paper's in {len(both) - len(against)} of the {len(both)} "
        "comparisons that the paper has too."
    )
    ours = number_text(median(pair.test.difference for pair, _ in both), signed=True)
    theirs = number_text(median(theirs for _, theirs in both), signed=True)
    detail = f"Median difference of ACC: {ours} here, {theirs} in the paper."
    return Finding(text, f"{detail} Against the paper: {_names(against, everyone)}." if against else detail)


def equal_bytes_table(entries: Sequence[Entry]) -> Table | None:
    """Every SHARC row beside the best plain rows that keep no more bytes; None without SHARC."""
    compared = equal_bytes(entries)
    if not compared:
        return None
    header = ["Data set", "Buffer", "Model", "bytes", "ACC"]
    header += ["same method, plain", "its bytes", "its ACC", "diff."]
    header += ["any method, plain", "its bytes", "its ACC", "diff."]
    rows = []
    for case in compared:
        sharc = case.sharc
        row = [
            Item(_place_name(entries, _place(sharc))),
            buffer_item(sharc),
            Item(model_label(sharc, varying_settings(entries))),
            *_bytes_and_acc(sharc),
        ]
        for plain in (case.same, case.other):
            if plain is None:
                row += [Item("none fits"), *[Item("–")] * 3]
                continue
            difference = sharc.acc - plain.acc
            row += [
                Item(_name(plain, entries)),
                *_bytes_and_acc(plain),
                Item(number_text(difference, signed=True), difference),
            ]
        rows.append(row)
    caption = (
        "The plain rows are the best by ACC among those that keep no more bytes than the SHARC row; diff. is "
        "SHARC less plain. Choosing the best by test ACC favours the plain side a little."
    )
    title = f"{scenario_name(entries[0].scenario)}: SHARC at equal bytes"
    return Table(title, caption, [("", len(header))], header, rows, text_columns=3)


def _bytes_and_acc(entry: Entry) -> list[Item]:
    return [Item(bytes_text(entry.total_bytes), entry.total_bytes), Item(number_text(entry.acc), entry.acc)]


def _place(entry: Entry) -> tuple[str, str]:
    return entry.dataset, entry.backbone


def _place_name(entries: Sequence[Entry], place: tuple[str, str]) -> str:
    several = len({entry.backbone for entry in entries}) > 1
    return f"{place[0]} ({place[1]})" if several else place[0]


def _name(entry: Entry, entries: Sequence[Entry]) -> str:
    label = model_label(entry, varying_settings(entries))
    if entry.buffer is None:
        return label
    several = len({e.budget for e in entries if e.budget is not None}) > 1
    return f"{label}, buffer {entry.buffer}" + (f" ({entry.budget})" if several else "")


def _names(entries: Sequence[Entry], among: Sequence[Entry]) -> str:
    """`ER (s_digits 200, 500; s_glyphs 200), GEM+ (...)`: rows by model, then data set, then buffers.

    among: all that they were chosen from, which says what a label has to carry.
    """
    varying = varying_settings(among)
    models: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        buffers = models.setdefault(model_label(entry, varying), {}).setdefault(entry.dataset, [])
        if str(entry.buffer) not in buffers:
            buffers.append(str(entry.buffer))
    return ", ".join(
        f"{model} (" + "; ".join(f"{name} {', '.join(buffers)}" for name, buffers in places.items()) + ")"
        for model, places in models.items()
    )
