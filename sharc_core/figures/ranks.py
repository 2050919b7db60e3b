"""Mean ranks over data sets, with the groups of methods that are not told apart (Demsar 2006)."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from sharc_core.figures.style import FRONT, GREY, look
from sharc_core.results.display_names import scenario_name
from sharc_core.results.ranks import Ranking, rankings
from sharc_core.results.summary import Entry
from sharc_core.results.table_formats import round_bytes_text

ROW = 0.24  # inches


def ranks_figure(entries: Sequence[Entry]) -> Figure:
    """Draw a panel per backbone: the mean rank of each method with its bootstrap interval over the seeds.

    The best method is at the top. A thick grey line connects methods whose mean ranks differ by less than the
    critical difference; the black line at the top has its length.
    """
    shown = rankings(entries)
    counts = [len(ranking.rows) + 1 for ranking in shown] or [1]
    figure = Figure(figsize=(6.4, sum(ROW * n + 0.9 for n in counts) + 0.3), layout="constrained")
    grid = figure.subplots(len(counts), 1, squeeze=False, height_ratios=counts)
    for ranking, panel in zip(shown, grid[:, 0], strict=False):
        rows = ranking.rows
        for y, row in enumerate(rows):
            colour, marker = look(row.method, entries)
            low, high = row.rank_interval
            if low == low:
                panel.plot([low, high], [y, y], color=colour, linewidth=1)
            face = colour if row.is_sharc else "white"
            panel.plot(row.rank, y, marker=marker, color=colour, markerfacecolor=face, markersize=6)
        for i, (first, last) in enumerate(ranking.groups):
            x = len(rows) + 0.25 + 0.12 * (i + 1) * len(rows) / 6
            panel.plot([x, x], [first - 0.25, last + 0.25], color=FRONT, linewidth=3.5)
        panel.plot([1, 1 + ranking.critical_difference], [-1, -1], color="black", linewidth=2)
        words = f"critical difference {ranking.critical_difference:.2f}"
        panel.text(1, -1.25, words, fontsize=7, color=GREY, va="bottom")
        panel.set_yticks(range(len(rows)))
        panel.set_yticklabels([row.name.replace("$", r"\$") for row in rows])
        panel.set_ylim(len(rows) - 0.4, -1.9)
        panel.set_xticks(_ticks(len(rows)))
        panel.set_xlabel("mean rank (1 is the best)")
        panel.set_title(_title(ranking, len(shown) > 1))
    figure.suptitle(f"{scenario_name(entries[0].scenario)}: ranks over data sets")
    return figure


def _ticks(count: int) -> Sequence[int]:
    return range(1, count + 1, 1 + count // 12)


def _title(ranking: Ranking, with_backbone: bool) -> str:
    title = f"{len(ranking.datasets)} data sets, at most {round_bytes_text(ranking.limit)}"
    return f"{title}, {ranking.backbone}".replace("$", r"\$") if with_backbone else title
