"""Registered studies: the contract, studies that add cells, and a study added as one file."""

import itertools
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from result_factory import make_grid
from snake import ROOT, ran, sharc_core, snakemake
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.common.registry import Registry
from sharc_core.common.settings import Settings
from sharc_core.grid import loading, models, study_settings
from sharc_core.grid.loading import load_config, load_grid
from sharc_core.grid.unroll import memberships
from sharc_core.report.figure_files import write_all_figures
from sharc_core.report.page import write_report
from sharc_core.report.tables import write_all_tables
from sharc_core.results.published import no_published
from sharc_core.results.runs import runs_table
from sharc_core.stages.layout import Layout
from sharc_core.studies import STUDIES, Study, base, registered
from sharc_core.studies.rows import job_file, job_key

# --- every registered study --------------------------------------------------------------------------


@pytest.fixture(params=STUDIES.names())
def study(request) -> Study:
    return STUDIES.get(request.param)()


def test_study_has_default_settings_and_a_title(study):
    assert isinstance(study.settings, Settings) and study.title
    assert study.name not in load_grid(BASE).model_dump(), "no key of a grid that does not have the study"


def test_study_name_differs_from_rules_and_keys_of_a_grid(study):
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    assert study.name not in {*re.findall(r"^rule (\w+):", rules, re.M), "all", "grid", "matrices"}
    assert study.name not in {*models.Grid.model_fields, *loading.RESERVED}


def test_its_files_begin_with_its_name(study):
    """Hence they can be found, and no sub-grid's files have such names."""
    assert all(name.startswith(f"{study.name}.") for name in study.table_names())
    grid = load_grid(BASE)
    if study.has_jobs():
        assert all(name.startswith(f"{study.name}_") for name in study.figure_names({}))
        stages = study.stages(grid)
        names = [name for stage in stages for name in stage.files]
        assert len(set(names)) == len(names) and {stage.name for stage in stages} >= {"tables"}
        assert all(re.match(rf"(tables|figures)/{study.name}[._]", name) for name in names)


def test_jobs_of_a_study_depend_only_on_their_parameters(study):
    grid = load_grid(BASE)
    jobs = study.jobs(grid)
    assert bool(jobs) == study.has_jobs()
    assert len({job_file(study, job) for job in jobs}) == len(jobs)
    layout = Layout(grid)
    for job in jobs:
        assert json.loads(json.dumps(job.parameters)) == job.parameters
        assert job_key(study, job, layout) == job_key(study, job, Layout(load_grid(grid.model_dump())))


def test_no_other_file_mentions_a_study_with_jobs():
    """Other code of the package, rules, scripts and profiles do not contain its name."""
    names = [name for name in STUDIES.names() if STUDIES.get(name).has_jobs()]
    files = [ROOT / "Snakefile", *ROOT.glob("profiles/*/*"), *ROOT.glob("workflow/*/*.*")]
    files += [path for path in ROOT.glob("sharc_core/**/*.py") if "studies" not in path.parts]
    others = {("weights.py", "heads")}  # torchvision's name of a transformer's classifier
    for path, name in itertools.product(files, names):
        if (path.name, name) in others:
            continue
        text = path.read_text()
        assert not re.search(
            rf"[\"'/]{name}[\"'/.]|\b{name}_?(study|job|rows|tables|figures|record)", text
        ), path


# --- a study that adds cells -------------------------------------------------------------------------


class Twice(Study):
    """ER at another buffer, compared with the grid's."""

    title = "Twice the buffer"

    class Settings(Settings):  # noqa: D106
        buffer: int = 100

    def sub_grids(self):
        return {"twice": {"methods": ["er"], "buffers": [self.settings.buffer], "figure": "bytes"}}

    def table_names(self):
        return ["twice.md"]

    def write_tables(self, results, folder):
        (Path(folder) / "twice.md").write_text(f"{len(results.runs)} runs\n")

    def sentences(self, results):
        return [f"There are {len(results.runs)} runs with {self.settings.buffer}."]


@pytest.fixture
def twice(monkeypatch):
    """Register one more study."""
    registry = Registry("study", "sharc_core.studies")
    registry._entries = {name: STUDIES.get(name) for name in STUDIES.names()}
    registry.register("twice")(Twice)
    for module in (study_settings, models, base, registered):
        monkeypatch.setattr(module, "STUDIES", registry)
    return registry


def test_a_studys_cells_are_the_grids(twice):
    before, grid = load_grid(BASE), load_grid(BASE | {"twice": {"buffer": 77}})
    assert grid.model_dump()["twice"] == {"buffer": 77} and grid.config_hash != before.config_hash
    assert list(grid.sub_grids) == ["twice"] and grid.studies == {}
    added = {cell.id: members for cell, members in memberships(grid)}
    for cell, _ in memberships(before):
        del added[cell.id]
    assert added and all("m77" in name for name in added)
    assert all(who == ["twice"] for members in added.values() for who in members.values())
    assert load_grid(grid.model_dump()) == grid
    assert load_grid(grid.without_studies()) == before


def test_reserved_and_unknown_names_are_refused(twice):
    with pytest.raises(UserError, match=r"^config: studies.twice: the name 'twice' is reserved"):
        load_grid(BASE | {"twice": {}, "studies": {"twice": {}}})
    with pytest.raises(UserError, match=r"^config: unknown key 'twice.bufer' \(did you mean 'buffer'\?\)"):
        load_grid(BASE | {"twice": {"bufer": 1}})
    with pytest.raises(
        UserError, match=r"^config: unknown key 'twic' \(did you mean 'twice'\?\); valid: .*twice"
    ):
        load_grid(BASE | {"twic": {}})
    with pytest.raises(UserError, match=r"^config: studies.twice: buffers: 3 is smaller than the 5 tasks"):
        load_grid(BASE | {"twice": {"buffer": 3}})


@pytest.mark.slow
def test_its_tables_and_sentences_are_the_grids(twice, tmp_path):
    cells = make_grid(("s_digits",), ("sgd", "er"), buffers=(100,))
    runs = runs_table(
        cells, [{scenario: ["main", "twice"] for scenario in ("task_il", "class_il")}] * len(cells)
    )
    values = {"twice": {"buffer": 77}}
    for given, expected in ((values, True), ({}, False)):
        folder = tmp_path / str(expected)
        (folder / "tables").mkdir(parents=True)
        tables = write_all_tables(runs, no_published(), folder / "tables", [], "c", given)
        assert (folder / "tables/twice.md" in tables) == expected
        figures = write_all_figures(cells, runs, folder / "figures", {}, "c", given)
        page = folder / "report.html"
        drawn = [path for path in figures if path.suffix == ".svg"]
        write_report(
            runs, cells, no_published(), folder / "figures", page, "T", {}, drawn=drawn, values=given
        )
        text = page.read_text()
        assert (f"There are {len(runs)} runs with 77." in text) == expected
        assert ('<section id="twice">' in text) == ('href="#twice"' in text) == expected


# --- a study with jobs, in one file, in a real snakemake ---------------------------------------------

NORMS = '''
"""Norms of the maps, by task. A study that a test adds."""

import pandas as pd
from matplotlib.figure import Figure

from sharc_core.common.files import write_text
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.figures.write import write_figure
from sharc_core.provenance.lineage import csv_text, lineage
from sharc_core.studies.base import STUDIES, Job, Study


@STUDIES.register("norms")
class Norms(Study):
    title = "Norms of the maps"

    class Settings(BaseSettings):
        power: int = 2

    def jobs(self, grid):
        settings = {"power": self.settings.power}
        return [Job(d, b.path_name, "norms", settings) for d in grid.datasets for b in grid.backbones]

    @staticmethod
    def run(job, features, progress):
        maps = features.train_maps.float().flatten(1)
        norms = maps.abs().pow(job.settings["power"]).sum(1).pow(1 / job.settings["power"])
        progress(f"{len(norms)} norms")
        return pd.DataFrame({"dataset": [job.dataset], "backbone": job.backbone, "norm": float(norms.mean())})

    def table_names(self):
        return ["norms.csv"]

    def write_tables(self, results, folder):
        rows = results.rows[["dataset", "backbone", "norm"]]
        write_text(folder / "norms.csv", csv_text(rows, lineage(results.rows, results.config)))

    def figure_names(self, backbones):
        return [f"norms_bars.{kind}" for kind in ("svg", "png", "pdf", "json")]

    def write_figures(self, results, folder):
        def draw():
            figure = Figure()
            figure.subplots().bar(results.rows.dataset, results.rows.norm)
            return figure

        words = {"title": "Norms", "alt": "A bar per data set.", "caption": "Mean norm of the maps."}
        write_figure(draw, folder / "norms_bars", words)

    def sentences(self, results):
        return [f"The mean norm of power {self.settings.power} is {results.rows.norm.mean():.6f}."]
'''


@pytest.fixture(scope="module")
def added(smoke_run, tmp_path_factory):
    """The finished smoke grid with an added study and its block in the grid file, run once."""
    folder = tmp_path_factory.mktemp("study") / "copy"
    shutil.copytree(smoke_run, folder)
    (folder / "sharc_core/studies/norms.py").write_text(NORMS)
    write(folder, norms={"power": 3})
    done = snakemake(folder, *GRID)
    assert done.returncode == 0, done.stdout
    return folder, done.stdout


GRID = ("--configfile", "config/norms.yaml")


def write(folder: Path, **blocks) -> None:
    values = yaml.safe_load((folder / "config/smoke.yaml").read_text()) | blocks
    (folder / "config/norms.yaml").write_text(yaml.safe_dump(values))


def planned(folder: Path, *targets: str) -> set[str]:
    done = snakemake(folder, *targets, *GRID, "--dry-run")
    assert done.returncode == 0, done.stdout
    return set(re.findall(r"^rule (\w+):", done.stdout, re.M))


@pytest.mark.pipeline
def test_a_study_is_one_new_file(added):
    folder, said = added
    results = folder / "results/smoke"
    assert set(ran(said)) >= {"study_job", "norms_tables", "norms_figures", "norms_provenance", "report"}
    assert not {"cell", "features", "pretrain", "data"} & set(ran(said)), "what was there is used"
    (rows,) = results.glob("norms/s_digits/*/norms.csv")
    norm = pd.read_csv(rows).norm[0]
    assert pd.read_csv(results / "tables/norms.csv").norm[0] == norm > 0
    page = (results / "report.html").read_text()
    section = page[page.index('<section id="norms">') :]
    section = section[: section.index("</section>")]
    assert f"The mean norm of power 3 is {norm:.6f}." in section and section.count("<svg") == 1
    assert "Report: results/smoke/report.html (0 cells trained, 4 up to date; " in said
    assert "Norms of the maps: results/smoke/tables/norms.csv (1 job run, 0 up to date)" in said


@pytest.mark.pipeline
def test_its_results_are_verified(added, tmp_path):
    folder, _ = added
    checked = sharc_core(folder, "verify", "results/smoke", "--data")
    assert checked.returncode == 0, checked.stdout
    tables = "1 tables equal those recomputed from 1 files of the norms study (1 rows), byte for byte"
    assert tables in checked.stdout
    copy = tmp_path / "copy"
    shutil.copytree(folder / "results/smoke", copy)
    table = copy / "tables/norms.csv"
    table.write_text(re.sub(r"(\d+\.\d)", r"1\1", table.read_text(), count=1))
    (copy / "norms/s_digits/old.csv").write_text("x")
    checked = sharc_core(folder, "verify", str(copy))
    assert checked.returncode == 1 and "altered: tables/norms.csv" in checked.stdout


@pytest.mark.pipeline
def test_changed_study_code_reruns_only_the_study(added):
    folder, _ = added
    path = folder / "sharc_core/studies/norms.py"
    assert planned(folder) == set()
    assert planned(folder, "norms") == set()
    path.write_text(NORMS + "\n# a comment\n")
    assert planned(folder) == set()
    after = {"norms_tables", "norms_figures", "norms_provenance", "report", "provenance", "all"}
    path.write_text(NORMS.replace(".mean())", ".mean()) + 1"))
    assert planned(folder) == {"study_job", *after}
    path.write_text(NORMS)
    (svg,) = folder.glob("results/smoke/figures/norms_bars.svg")
    before = svg.read_bytes()
    svg.write_bytes(before[:-1])
    assert planned(folder) == {"norms_figures", "norms_provenance", "report", "provenance", "all"}
    svg.write_bytes(before)
    write(folder, norms={"power": 2})
    assert "study_job" in planned(folder) and "cell" not in planned(folder)
    write(folder)  # without its block it is still a target with defaults, but not part of `all`
    assert "study_job" not in planned(folder) and "study_job" in planned(folder, "norms")
    write(folder, norms={"power": 3})
    assert planned(folder) == set()
    assert planned(folder, "norms", "--forcerun", "study_job") >= {"study_job", "norms_tables"}


def test_the_page_of_studies_shows_those_of_the_shipped_grid():
    """Every command of docs/studies.md is a study that config/studies.yaml configures, and the other way."""
    commands = re.findall(
        r"^    snakemake --cores \w+ (\w+) --configfile config/studies.yaml$",
        (ROOT / "docs/studies.md").read_text(encoding="utf-8"),
        re.M,
    )
    grid = load_config(ROOT / "config/studies.yaml")
    assert sorted(commands) == sorted(["studies", *registered.configured_jobs(grid)])
