"""Tables of the report about equal bytes and ranks: the best ACC within limits, areas, mean ranks."""

from collections.abc import Sequence

from sharc_core.common.formats import DASH, bytes_text, number_text
from sharc_core.results.display_names import scenario_name
from sharc_core.results.equal_budgets import Standing, area_range, areas, limits, places_of, standings
from sharc_core.results.ranks import Ranking, rankings
from sharc_core.results.summary import Entry
from sharc_core.results.table_formats import Item, Table, p_text, round_bytes_text


def limits_table(entries: Sequence[Entry]) -> Table | None:
    """Return the best ACC of every method within each limit of total bytes; None without a comparison."""
    every = limits(entries)
    if not every:
        return None
    ranked = {limit: standings(entries, limit) for limit in every}
    names = dict.fromkeys(s.series.name for limit in reversed(every) for s in ranked[limit])
    rows = [[Item(name), *(_acc(ranked[limit], name) for limit in every)] for name in names]
    header = ["Model", *(f"at most {round_bytes_text(limit)}" for limit in every)]
    caption = (
        "ACC in percent of the best run of each method that keeps no more bytes in total (episodic memory, "
        "associative memory and learner), mean over the data sets and seeds. Bold: the best of a limit. A "
        "dash: no run keeps so few bytes on every data set. The best run is chosen by test ACC, which "
        "favours methods with many runs slightly. JOINT is excluded, as its bytes exclude the data."
    )
    title = f"{scenario_name(entries[0].scenario)}: the best ACC within a total of bytes"
    return Table(title, caption, [("", len(header))], header, rows, text_columns=1)


def _acc(ranked: Sequence[Standing], name: str) -> Item:
    standing = next((s for s in ranked if s.series.name == name), None)
    if standing is None:
        return Item(DASH)
    text = number_text(standing.acc)
    return Item(text, standing.acc, text == number_text(ranked[0].acc))


def areas_table(entries: Sequence[Entry]) -> Table | None:
    """Return the area under ACC over log10(bytes) of every method; None where no method has two budgets."""
    rows = [
        [
            Item(area.name + (" (one total)" if area.is_constant else "")),
            Item(number_text(area.value), area.value),
            Item(_interval(area.low, area.high), area.low),
        ]
        for area in areas(entries)
    ]
    if not rows:
        return None
    ranges = [(place, area_range(entries, place)) for place in places_of(entries)]
    listed = ", ".join(
        f"{place[0]} {bytes_text(ends[0])} to {bytes_text(ends[1])}" for place, ends in ranges if ends
    )
    caption = (
        "Area under ACC over log10(bytes), divided by the width of the range: a mean ACC in percent, over "
        "the data sets and seeds. ACC is interpolated between a method's totals and constant above the "
        f"largest. Ranges, which all methods share: {listed}. Methods with a single total below the range "
        "are constant. 95 % percentile bootstrap interval over the seeds."
    )
    title = f"{scenario_name(entries[0].scenario)}: area under ACC over log bytes"
    return Table(title, caption, [("", 3)], ["Model", "area", "95 % interval"], rows, text_columns=1)


def rank_tables(entries: Sequence[Entry]) -> list[Table]:
    """Return the mean ranks over data sets, a table per backbone with enough data sets and methods."""
    return [_rank_table(ranking, entries[0].scenario) for ranking in rankings(entries)]


def _rank_table(ranking: Ranking, scenario: str) -> Table:
    rows = [
        [
            Item(row.name),
            Item(f"{row.rank:.2f}", row.rank),
            Item(_interval(*row.rank_interval), row.rank_interval[0]),
            Item(number_text(row.acc), row.acc),
            Item(_interval(*row.acc_interval), row.acc_interval[0]),
        ]
        for row in ranking.rows
    ]
    caption = (
        f"Data sets: {', '.join(ranking.datasets)}. Rank 1 is the best ACC within "
        f"{round_bytes_text(ranking.limit)} in total. Friedman's test that all methods are equal: p "
        f"{p_text(ranking.p)}. Methods whose mean ranks differ by less than "
        f"{ranking.critical_difference:.2f} are not told apart (Nemenyi, level 0.05; Demšar 2006). 95 % "
        "percentile bootstrap intervals over the seeds; they do not cover the choice of data sets."
    )
    header = ["Model", "mean rank", "95 % interval", "mean ACC", "95 % interval"]
    title = f"{scenario_name(scenario)}: ranks over data sets, backbone {ranking.backbone}"
    return Table(title, caption, [("", 5)], header, rows, text_columns=1)


def _interval(low: float, high: float) -> str:
    return DASH if low != low else f"[{number_text(low)}, {number_text(high)}]"
