"""Table and sentences of the study `fair_tuning`: both rankings and how far they agree."""

from pathlib import Path

import pandas as pd

from sharc_core.common.formats import DASH, number_text
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.display_names import scenario_name
from sharc_core.results.statistics import PairedTest
from sharc_core.results.table_formats import Item, Table, interval_text
from sharc_core.studies.fair_tuning.rankings import ALL, Rankings, entrant_name, rankings, summary
from sharc_core.studies.fair_tuning.settings import PUBLISHED, TUNED
from sharc_core.studies.measured_tables import write_measured_tables

HEADER = ["Method", "ACC", "rank", "ACC", "rank", "tuned - published", "interval", ""]
AGREEMENT = [
    "Ranking",
    "tau",
    "published halves",
    "published and tuned halves",
    "kept",
    "published",
    "tuned",
    "reversed",
]
AGREEMENT_GROUPS = [("", 5), ("pairs (Holm)", 3)]
GROUPS = [("", 1), ("published", 2), ("tuned", 2), ("", 3)]


def write_fair_tables(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write fair_tuning.csv, .md and .tex; return the paths. rows: of the jobs. config: the grid's hash."""
    origin = lineage(rows, config)
    return write_measured_tables(
        "fair_tuning",
        folder,
        origin,
        "Does the ranking survive tuning?",
        summary(rows),
        fair_findings(rows),
        fair_tables(rows),
    )


def shown(rows: pd.DataFrame) -> list[Rankings]:
    """Return the rankings of the mean over data sets, or of the only data set."""
    made = rankings(rows)
    averaged = {(r.scenario, r.backbone) for r in made if r.dataset == ALL}
    return [r for r in made if r.dataset == ALL or (r.scenario, r.backbone) not in averaged]


def fair_tables(rows: pd.DataFrame) -> list[Table]:
    """Return one table per scenario and backbone, the best published ACC first, and one of all taus."""
    lines = summary(rows)
    return [*(_table(ranking, lines) for ranking in shown(rows)), _agreement(rankings(rows))]


def _agreement(made: list[Rankings]) -> Table:
    """Return the table of how far both rankings agree, on each data set and in the mean over data sets."""
    body = []
    for ranking in made:
        pairs, kept = ranking.pairs, f"{ranking.kept} of {ranking.cells}"
        items = [Item(_place(ranking)), Item(number_text(ranking.tau) + _interval(ranking), ranking.tau)]
        items += [Item(number_text(tau), tau) for tau in (ranking.tau_halves, ranking.tau_across)]
        items.append(Item(kept, ranking.kept))
        items += [
            Item(f"{pairs[name]} ({pairs[f'{name}_holm']}) of {pairs['all']}", pairs[name])
            for name in (PUBLISHED, TUNED, "reversed")
        ]
        body.append(items)
    caption = (
        "Kendall's tau between the rankings by ACC with published and with tuned settings. The interval is a "
        "95 % bootstrap interval over the seeds of the test, given the chosen settings; it does not cover "
        "other draws of the search. Published halves: mean tau between the published rankings of two halves "
        "of the seeds. Published and tuned halves: between the published ranking of one half and the tuned "
        "one of the other. Kept: cells that were best with their published settings. Pairs of entrants that "
        "are told apart with published and tuned settings, and with both in opposite directions (reversed), "
        "by paired 95 % Student-t intervals; in brackets after Holm's correction for the number of pairs."
    )
    return Table("Agreement of the rankings", caption, AGREEMENT_GROUPS, AGREEMENT, body, text_columns=1)


def _place(ranking: Rankings) -> str:
    """Return `Task-IL, resnet, mean over data sets`."""
    where = f"{scenario_name(ranking.scenario)}, {ranking.backbone}"
    return where + (", mean over data sets" if ranking.dataset == ALL else f", {ranking.dataset}")


def _table(ranking: Rankings, lines: pd.DataFrame) -> Table:
    for name in ("scenario", "dataset", "backbone"):
        lines = lines[lines[name] == getattr(ranking, name)]
    body = []
    for line in lines.sort_values(["rank_published", "rank_tuned"], kind="stable").to_dict("records"):
        items = [Item(entrant_name((line["method"], line["variant"])))]
        for source in (PUBLISHED, TUNED):
            acc, rank = line[f"acc_{source}"], line[f"rank_{source}"]
            items += [Item(number_text(acc), acc), Item(f"{rank:g}", rank)]
        items.append(Item(number_text(line["change"], signed=True), line["change"]))
        items.append(Item(interval_text(line["change_low"], line["change_high"]), line["change_low"]))
        body.append([*items, Item(line["verdict"])])
    averaged = ", of the mean over data sets" if ranking.dataset == ALL else f" on {ranking.dataset}"
    caption = (
        f"ACC on the test images in percent, mean over {ranking.seeds} seeds{averaged}. + is with SHARC. "
        f"Tuned: the best of at most {lines.trials.max()} trials per cell on held-out training images, of "
        "which the first has the published settings. Differences in percentage points are paired by seed, "
        f"with the 95 % Student-t interval, not corrected for their number. {tau_text(ranking)}."
    )
    title = f"{scenario_name(ranking.scenario)}, {ranking.backbone}"
    return Table(title, caption, GROUPS, HEADER, body, text_columns=1)


def tau_text(ranking: Rankings) -> str:
    """Return `Kendall's tau 0.80 [0.71, 0.88]`."""
    return f"Kendall's tau {number_text(ranking.tau)}{_interval(ranking)}"


def _interval(ranking: Rankings) -> str:
    low, high = ranking.tau_interval
    return "" if low != low else f" [{number_text(low)}, {number_text(high)}]"


def fair_findings(rows: pd.DataFrame) -> list[str]:
    """Return Kendall's tau and reversed pairs on each data set and in the mean, and SHARC's gain."""
    sentences = [_agreement_text(ranking) for ranking in rankings(rows)]
    for ranking in shown(rows):
        published, tuned = ranking.sharc(PUBLISHED), ranking.sharc(TUNED)
        if published is not None and tuned is not None:
            sentences.append(
                f"{_place(ranking)}: SHARC minus plain replay, mean over methods, is {_test_text(published)} "
                f"with published and {_test_text(tuned)} with tuned settings."
            )
    return sentences


def _agreement_text(ranking: Rankings) -> str:
    pairs, count = ranking.pairs, len(ranking.entrants)
    return (
        f"{_place(ranking)}: {tau_text(ranking)} between the rankings of {count} entrants with published and "
        f"with tuned settings{_relation(ranking)}. On different halves of the seeds published and tuned "
        f"rankings agree with tau {number_text(ranking.tau_across)}, two published ones with "
        f"{number_text(ranking.tau_halves)}. {ranking.kept} of {ranking.cells} cells kept their published "
        f"settings. Of {pairs['all']} pairs {pairs[PUBLISHED]} are told apart with published and "
        f"{pairs[TUNED]} with tuned settings, and {pairs['reversed']} of these in opposite directions; after "
        f"Holm's correction {pairs['published_holm']}, {pairs['tuned_holm']} and {pairs['reversed_holm']}."
    )


def _relation(ranking: Rankings) -> str:
    low, high = ranking.tau_interval
    return " (not told apart from no relation)" if low <= 0 <= high else ""


def _test_text(test: PairedTest) -> str:
    interval = interval_text(test.low, test.high)
    words = "" if interval == DASH or not test.low <= 0 <= test.high else ", not told apart from zero"
    return f"{number_text(test.difference, signed=True)} {interval}{words}"
