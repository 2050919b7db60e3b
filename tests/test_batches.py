"""Several cells in one job: how they are grouped, equal results, and reuse of finished cells."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from factories import make_cell
from safetensors.torch import save_file
from test_features import random_images

from sharc_core.backbones import BackboneConfig, load_backbone
from sharc_core.backbones.architectures import build_classifier
from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json
from sharc_core.features.cache import extract_features, open_views
from sharc_core.features.views import needed_views
from sharc_core.grid.cell import Training
from sharc_core.learning import learner
from sharc_core.learning.documents import Wanted, missing_seeds
from sharc_core.learning.learner import run_cell
from sharc_core.provenance.code_hashes import code_hash
from sharc_core.provenance.origin import features_hash
from sharc_core.stages import cell_jobs as module
from sharc_core.stages.cell_jobs import batches, run_batch, wanted_of

torch.set_num_threads(1)
SHARC = "er-sharc-m12-floats-theta0.5-gradient-modern_hopfield"
NAMES = ["er-plain-m12-floats", "er-plain-m18-floats", SHARC]


def cells() -> list:
    """Return three cells whose seeds train on two views."""
    made = (("plain", 12, 0), ("plain", 18, 0), ("sharc", 12, 1))
    return [make_cell("er", variant, buffer=m, seeds=[seed], views=2) for variant, m, seed in made]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """Return the feature manifests of both views of a small data set."""
    folder = tmp_path_factory.mktemp("features")
    torch.manual_seed(0)
    save_file(build_classifier("resnet_small", 5).state_dict(), path := folder / "w.safetensors")
    config = BackboneConfig(arch="resnet_small", weights=str(path), image_size=16)
    network = load_backbone(config, path, "cpu")
    data = random_images(train=60, test=12, side=16)
    data = SimpleNamespace(**vars(data))
    data.train_labels, data.test_labels = torch.arange(60).numpy() % 6, torch.arange(12).numpy() % 6
    data.manifest = {"classes": [str(n) for n in range(6)]}
    for view in (1, 2):
        extract_features(data, network, folder / "images/net" / f"view{view}", view=view)
    return [folder / "images/net" / f"view{view}" / "manifest.json" for view in (1, 2)]


class Job:
    """Runs a batch in a folder as the workflow does. trained: the ids of the cells that the last run trained.

    Like the Snakefile, it first determines the missing seeds. If none is missing, it trains all.
    """

    def __init__(self, folder, manifests, monkeypatch):
        self.folder, self.manifests, self.trained, self.fails = folder, manifests, [], {}
        self.stamp = folder / ".finished" / "er-1.batch"
        monkeypatch.setattr(learner, "run_cell", self.run_cell)

    def run_cell(self, features, cell, progress):
        if cell.id in self.fails:
            raise self.fails[cell.id]
        self.trained.append(cell.id)
        return run_cell(features, cell)

    def run(self, wanted, code="code", aside=None, moved=True):
        self.trained.clear()
        self.said = []
        asked = [Wanted(cell, code, reads(cell)) for cell in wanted]
        missing = [missing_seeds(self.document(one.cell), one) for one in asked]
        left = [(one, seeds) for one, seeds in zip(asked, missing, strict=True) if seeds]
        left = left or [(one, one.cell.seeds) for one in asked]
        paths = [self.folder / f"{one.cell.id}.json" for one, _ in left]
        run_batch(*zip(*left, strict=True), paths, self.manifests, self.stamp, aside, self.said.append)
        assert self.stamp.exists()
        if moved:
            for path in self.stamp.parent.glob("*.document"):
                path.rename(self.folder / f"{path.stem}.json")
        return self.trained

    def document(self, cell):
        path = self.folder / f"{cell.id}.json"
        return read_json(path) if path.exists() else None

    def documents(self, of="*.json") -> dict:
        found = {path.stem: json.loads(path.read_text()) for path in sorted(self.folder.glob(of))}
        for document in found.values():
            del document["costs"]["train_seconds"]
        return found


def reads(cell) -> dict[int, list[str]]:
    """Return what Layout.reads returns for these features, by seed."""
    return {seed: [f"images/net/view{v}" for v in needed_views([seed], 2)] for seed in cell.seeds}


@pytest.fixture
def job(tmp_path, manifests, monkeypatch):
    return Job(tmp_path / "matrices", manifests, monkeypatch)


def test_cells_of_a_job_are_of_one_data_set_backbone_and_method():
    mixed = [
        make_cell(method, dataset=dataset, buffer=None if method == "sgd" else buffer)
        for dataset in ("a", "b")
        for buffer in (10, 20, 30)
        for method in ("er", "sgd", "gem")
        if method != "sgd" or buffer == 10
    ]
    found = batches(mixed, 2)
    assert list(found) == [
        (dataset, "toy", name) for dataset in "ab" for name in ("er-1", "er-2", "sgd-1", "gem-1", "gem-2")
    ]
    assert [cell.buffer for cell in found["b", "toy", "gem-1"]] == [10, 20]
    assert sorted(c.id for group in found.values() for c in group) == sorted(c.id for c in mixed)


def test_batched_cells_equal_cells_trained_alone(job, manifests):
    """Each cell trains on the views of its own seeds and records them; results are equal bit for bit."""
    mixed = cells()
    assert [c.seeds for c in mixed] == [[0], [0], [1]]
    assert job.run(mixed) == NAMES
    features = open_views([path.parent for path in manifests])
    for cell in mixed:
        alone = run_cell(features, cell)
        del alone["costs"]["train_seconds"]
        found = job.documents()[cell.id]
        (training,) = found["trainings"]
        named = {path.parent.name: features_hash(read_json(path)) for path in manifests}
        assert training["reads"] == list(reads(cell).values()) and training["code"] == "code"
        assert training["features"] == {name: named[name.split("/")[-1]] for name in training["reads"][0]}
        assert {k: v for k, v in found.items() if k != "trainings"} == {
            k: v for k, v in alone.items() if k != "trainings"
        }


@pytest.mark.reliability("killed-batch")
def test_interrupted_job_trains_only_unfinished_cells(job):
    mixed = cells()
    job.fails = {NAMES[1]: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        job.run(mixed)
    assert job.trained == NAMES[:1] == list(job.documents(".finished/*.document")) and not job.stamp.exists()
    job.fails = {}
    assert job.run(mixed) == NAMES[1:]
    assert f"{NAMES[0]}: finished by an earlier run of this job" in job.said
    resumed = job.documents()
    shutil.rmtree(job.folder)
    assert job.run(mixed) == NAMES and job.documents() == resumed


@pytest.mark.reliability("forced")
def test_forced_job_retrains_and_resumes_after_an_interrupt(job):
    """Snakemake runs the job with --forcerun although nothing has changed."""
    mixed = cells()
    assert job.run(mixed) == NAMES
    job.fails = {NAMES[1]: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        job.run(mixed)
    assert job.trained == NAMES[:1]
    job.fails = {}
    assert job.run(mixed) == NAMES[1:], "killed on the way, it goes on"


def test_a_job_that_gains_a_cell_trains_that_cell(job):
    mixed = cells()
    job.run(mixed[:2])
    before = job.documents()
    assert job.run(mixed) == NAMES[2:]
    assert {name: job.documents()[name] for name in NAMES[:2]} == before


@pytest.mark.reliability("more-seeds", "seeds-more-or-less")
def test_a_seed_more_trains_that_seed(job):
    """The document equals a training of all seeds. Removing a seed trains nothing and deletes nothing."""
    one, both = (make_cell("er", buffer=12, seeds=seeds, views=2) for seeds in ([0], [0, 1]))
    job.run([one])
    alone = job.documents()[one.id]
    job.run([both])
    (grown,) = job.documents().values()
    assert grown["seeds"] == [0, 1] and job.trained == [one.id]
    assert not missing_seeds(grown, Wanted(one, "code", reads(one)))
    assert {k: v[:1] for k, v in grown["matrix"].items()} == alone["matrix"]
    shutil.rmtree(job.folder)
    job.run([both])
    (together,) = job.documents().values()
    assert {k: v for k, v in grown.items() if k != "trainings"} == {
        k: v for k, v in together.items() if k != "trainings"
    }


def test_leftover_of_an_interrupted_batch_drops_no_seed(job):
    """A batch was killed before its document was moved, and the moved document later gained a seed."""
    seeds = [make_cell("er", buffer=12, seeds=s, views=2) for s in ([0], [1], [0, 1])]
    job.run(seeds[:1], moved=False)
    (left,) = job.stamp.parent.glob("*.document")
    kept = left.read_bytes()
    left.unlink()
    job.run(seeds[1:2])
    assert job.documents()[seeds[0].id]["seeds"] == [1]
    left.write_bytes(kept)
    assert job.run(seeds[2:]) == [] and job.documents()[seeds[0].id]["seeds"] == [0, 1]


@pytest.mark.reliability("killed-batch")
def test_changed_setting_code_or_device_discards_finished_cells(job):
    """Finished cells are reused only with the same settings, code and device."""
    mixed = cells()
    changes = {
        "setting": lambda: job.run([mixed[0], mixed[1].model_copy(update={"training": Training(lr=0.2)})]),
        "code": lambda: job.run(mixed[:2], code="other"),
        "device": lambda: job.run([cell.model_copy(update={"device": "auto"}) for cell in mixed[:2]]),
    }
    for name, run in changes.items():
        shutil.rmtree(job.folder, ignore_errors=True)
        job.run(mixed)
        assert run() == (NAMES[1:2] if name == "setting" else NAMES[:2]), name


def test_job_refuses_code_that_changed_since_planning():
    """A job loads the code when it starts, so its hash must still equal the planned one."""
    cell = cells()[0]
    told = {"cell": cell.model_dump(mode="json"), "reads": reads(cell)}
    now = code_hash(*cell.plugins)
    assert wanted_of(told | {"code": now}) == Wanted(cell, now, reads(cell))
    with pytest.raises(UserError, match="its code was changed after Snakemake was started: run again"):
        wanted_of(told | {"code": "another"})


@pytest.mark.reliability("keep-replaced")
def test_replaced_document_is_kept_on_request(job, tmp_path):
    mixed, aside = cells()[:1], tmp_path / "outdated"
    job.run(mixed)
    before = (job.folder / f"{NAMES[0]}.json").read_bytes()
    job.run(mixed, code="other", aside=aside)
    (kept,) = aside.rglob("*.json")
    assert kept.read_bytes() == before and kept.parent == aside / "toy" / "toy"
    assert any(str(kept) in line for line in job.said)
    job.run(mixed, code="other", aside=aside)
    assert list(aside.rglob("*.json")) == [kept], "one that is right is not put aside"


@pytest.mark.reliability("killed-batch")
def test_a_damaged_document_is_not_taken(job):
    mixed = cells()
    job.run(mixed)
    (job.folder / f"{NAMES[0]}.json").write_text("[1]")
    (job.folder / f"{NAMES[1]}.json").unlink()
    job.document = lambda cell: module._readable(job.folder / f"{cell.id}.json")
    assert job.run(mixed) == NAMES[:2]


def test_one_cell_that_fails_costs_the_others_nothing(job):
    mixed = cells()
    job.fails = {NAMES[1]: UserError("it diverged")}
    with pytest.raises(UserError, match=f"1 of 3 cells failed, the others are kept: {NAMES[1]}: it diverged"):
        job.run(mixed)
    assert job.trained == [NAMES[0], NAMES[2]] and not job.stamp.exists()
    job.fails = {}
    assert job.run(mixed) == [NAMES[1]]
