"""Tables and sentences of the study `memory_bound`."""

import math
from pathlib import Path
from typing import Any

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.formats import DASH, bytes_text
from sharc_core.provenance.lineage import FIELDS, lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.representations import REPRESENTATIONS
from sharc_core.results.table_formats import Item, Table
from sharc_core.studies.measured_tables import write_measured_tables
from sharc_core.studies.memory_bound.bounds import most_kept
from sharc_core.studies.memory_bound.settings import ALONE, COMPRESSED, COMPRESSORS, MAPS, MEMORY

PLACE = ["dataset", "backbone"]
PAPER = (0.4, 0.8)  # the paper's theta in Class-IL and Task-IL
NEVER = "never"
BOUNDED = (  # which codes the bounds hold for
    "Every map: a code that holds every possible map with so many channels takes at least as many bytes for "
    "some of them. Only zeros known: no code of single values that knows the share of zeros and treats all "
    "others alike takes fewer. One distribution: nor does a code of single values with one distribution for "
    "the values of all channels. Compressors use more, such as repetitions and neighbouring values, and may "
    "go below all three"
)


def smallest(row: pd.Series, columns: list[str]) -> tuple[str, float]:
    """Return the name and the bytes of the best of some compressors at a row; NaN ones do not count."""
    sizes = {name: row[column] for name, column in zip(COMPRESSORS, columns, strict=True)}
    best = min((name for name in sizes if not math.isnan(sizes[name])), key=sizes.__getitem__)
    return best, float(sizes[best])


def tables(rows: pd.DataFrame) -> list[Table]:
    """Return, for each data set and backbone, a table of bytes per map and one of associative memories."""
    made = []
    for place, group in rows.groupby(PLACE, sort=False):
        made += [
            _maps_table(group[group.kind == MAPS], place),
            _memory_table(group[group.kind == MEMORY], place),
        ]
    return made


def write_bound_tables(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write memory_bound.csv (all rows), .md and .tex and return the paths. config: the grid's hash."""
    own = rows[[name for name in rows.columns if name not in (*FIELDS, "key")]]
    origin = lineage(rows, config)
    return write_measured_tables(
        "memory_bound",
        folder,
        origin,
        "How much memory dropping channels can save",
        own,
        sentences(rows),
        tables(rows),
    )


def _maps_table(lines: pd.DataFrame, place: tuple[str, str]) -> Table:
    first = lines.iloc[0]
    used = [name for name in COMPRESSORS if lines[f"{name}_bytes"].notna().any()]
    header = ["Storage", "theta", "kept", "stored, B", "every map, B", "zeros, %", "only zeros known, B"]
    header += ["bits a value", "one distribution, B", *(f"{name}, B" for name in used)]
    header += [f"{name} alone, B" for name in used] + ["maps per MB"]
    body = []
    for line in lines.itertuples():
        items = [Item(line.storage), Item(f"{line.theta:g}", line.theta), Item(str(line.keep), line.keep)]
        items += [_count(line.stored_bytes), _count(line.any_bytes)]
        items += [Item(f"{100 * line.zeros:.1f}", line.zeros), _count(line.zeros_bytes)]
        items += [Item(f"{line.value_entropy:.2f}", line.value_entropy), _count(line.entropy_bytes)]
        items += [_count(getattr(line, f"{name}{kind}_bytes")) for kind in ("", "_alone") for name in used]
        body.append([*items, _count(1e6 / line.stored_bytes)])
    storages = list(dict.fromkeys(lines.storage))
    breaks = [
        number
        for number, line in enumerate(lines.itertuples())
        if number and line.theta == lines.theta.iloc[0]
    ]
    caption = [
        f"Bytes per map, mean of {first['maps']} training maps of {first.channels} x {first.height} x "
        f"{first.width}, as {' and '.join(storages)}; channels are dropped by gradient saliency",
        BOUNDED,
        "Compressors get all maps at once, or each alone, as it would be stored for replay. Their "
        "sizes are upper bounds on that of lossless coding: another code may be shorter",
        "Labels, logits and the associative memory are not included",
    ]
    return Table(
        f"Bytes per map: {place[0]}, {place[1]}",
        ". ".join(caption) + ".",
        [("", len(header))],
        header,
        body,
        breaks,
        1,
    )


def _count(value: float) -> Item:
    return Item(DASH) if math.isnan(value) else Item(f"{value:,.0f}", value)


def _memory_table(lines: pd.DataFrame, place: tuple[str, str]) -> Table:
    thetas = [theta for theta in dict.fromkeys(lines.theta) if theta > 0]
    header = ["Memory", "state", "per map", *(f"{theta:g}" for theta in thetas)]
    body, notes = [], []
    for name, own in lines.groupby("memory", sort=False):
        first = own.iloc[0]
        items = [Item(name)]
        items += [Item(bytes_text(first[c]), first[c]) for c in ("state_bytes", "state_bytes_per_map")]
        by_theta = own.set_index("theta").break_even
        is_refused = not pd.isna(first.reason)
        items += [_break_even(by_theta[theta], is_refused) for theta in thetas]
        body.append(items)
        notes += [f"{name}: {first.reason}"] if is_refused else []
    caption = [
        f"Break-even: the number of samples from which on a memory's state is paid back by the channels that "
        f"samples drop, stored as {lines.storage.iloc[0]}, by theta; {NEVER}: the state grows by more per "
        "sample than is saved",
        "State: bytes before the first sample. Per map: what each further one adds",
    ]
    return Table(
        f"Break-even: {place[0]}, {place[1]}",
        ". ".join([*caption, *notes]) + ".",
        [("", 3), ("samples at theta", len(thetas))] if thetas else [("", 3)],
        header,
        body,
        [],
        1,
    )


def _break_even(value: Any, is_refused: bool) -> Item:
    if is_refused:
        return Item(DASH)
    return Item(NEVER) if pd.isna(value) else Item(f"{value:,}", float(value))


# --- sentences -----------------------------------------------------------------------------------------


def sentences(rows: pd.DataFrame) -> list[str]:
    """Return two sentences per data set and backbone: on compression, and on the state that must be paid."""
    texts = []
    for place, group in rows.groupby(PLACE, sort=False):
        maps, memories = group[group.kind == MAPS], group[group.kind == MEMORY]
        own = maps[maps.storage == maps.storage.iloc[0]].sort_values("theta")
        where = f"On {place[0]} ({place[1]})"
        texts += [_compression(own, where), _paid_back(memories, where)]
    return [text for text in texts if text]


def _compression(own: pd.DataFrame, where: str) -> str:
    """Return how far compressors shrink the densest maps, and what SHARC has to drop for as few bytes.

    Map by map comes first, because a map that shares a stream with others cannot be replayed without them.
    """
    full, last = own.iloc[0], own.iloc[-1]
    (name, alone), (joint_name, joint) = smallest(full, ALONE), smallest(full, COMPRESSED)
    text = (
        f"{where}, {100 * full.zeros:.0f} % of the stored values at theta {full.theta:g} are zero and "
        f"{name} shrinks these maps losslessly by a factor of {full.stored_bytes / alone:.2f} map by map "
        f"({full.stored_bytes / joint:.2f} by {joint_name} with all in one stream; a code of single values "
        f"with one distribution by at most {full.stored_bytes / full.entropy_bytes:.2f}). "
        f"For as few bytes as {name} map by map, without its associative memory, SHARC "
        f"{_needed(full, alone)} (for as few as the one stream, it {_needed(full, joint)})"
    )
    if len(own) > 1:
        text += f"; it saves a factor of {full.stored_bytes / last.stored_bytes:.2f} at theta {last.theta:g}"
    return f"{text}."


def _needed(row: pd.Series, size: float) -> str:
    """Return what SHARC has to do so that a map of a row's shape and storage takes at most `size` bytes."""
    shape = tuple(int(row[name]) for name in ("channels", "height", "width"))
    keep = most_kept(REPRESENTATIONS.get(row.storage)(shape).planned_bytes, shape[0], size)
    if not keep:
        return "cannot, even with one channel"
    return f"has to drop {100 * (1 - keep / shape[0]):.0f} % of the channels and keep {keep} of {shape[0]}"


def _paid_back(memories: pd.DataFrame, where: str) -> str:
    """Return the break-even of every memory at the paper's theta, or at the largest of the grid."""
    thetas = sorted(memories.theta[memories.theta > 0].unique())
    if not thetas:
        return ""
    chosen = [theta for theta in PAPER if theta in thetas] or thetas[-1:]
    parts = []
    for theta in chosen:
        lines = memories[(memories.theta == theta) & memories.reason.isna() & (memories.memory != "none")]
        paid = lines[lines.break_even.notna()].sort_values("break_even", kind="stable")
        texts = [
            f"{count:,} ({', '.join(group.memory)})" for count, group in paid.groupby("break_even", sort=True)
        ]
        never = [line.memory for line in lines.itertuples() if pd.isna(line.break_even)]
        text = f"at theta {theta:g} after {', '.join(texts)} samples" if texts else f"at theta {theta:g}"
        parts.append(text + (f" and {NEVER} for {', '.join(never)}" if never else ""))
    return f"{where}, the state of an associative memory is paid back {'; '.join(parts)}."
