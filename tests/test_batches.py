"""Several cells in one job: which go together, equal to one by one, and nothing finished is lost."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from factories import make_cell
from safetensors.torch import save_file
from test_features import random_images

from sharc_core import batches as module
from sharc_core.backbones import BackboneConfig, load_backbone
from sharc_core.backbones.architectures import build_classifier
from sharc_core.batches import batches, run_batch
from sharc_core.cell import Training
from sharc_core.errors import UserError
from sharc_core.features import extract_features, open_views
from sharc_core.files import sha256_file
from sharc_core.learner import run_cell
from sharc_core.views import needed_views

torch.set_num_threads(1)
SHARC = "er-sharc-m12-floats-theta0.5-gradient-modern_hopfield"
NAMES = ["er-plain-m12-floats", "er-plain-m18-floats", SHARC]


def cells() -> list:
    """Three, whose seeds train on two views."""
    made = (("plain", 12, 0), ("plain", 18, 0), ("sharc", 12, 1))
    return [make_cell("er", variant, buffer=m, seeds=[seed], views=2) for variant, m, seed in made]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """Of both views of a small data set."""
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
        extract_features(data, network, folder / f"view{view}", view=view)
    return [folder / f"view{view}" / "manifest.json" for view in (1, 2)]


class Job:
    """A batch in a folder, run as Snakemake does: the stamp is deleted first. trained: what was."""

    def __init__(self, folder, manifests, monkeypatch):
        self.folder, self.manifests, self.trained, self.fails = folder, manifests, [], {}
        self.stamp = folder / "er-1.batch"
        monkeypatch.setattr(module, "run_cell", self.run_cell)

    def run_cell(self, features, cell, progress):
        if cell.id in self.fails:
            raise self.fails[cell.id]
        self.trained.append(cell.id)
        return run_cell(features, cell)

    def run(self, wanted, code="code"):
        self.trained.clear()
        self.said = []
        self.stamp.unlink(missing_ok=True)
        views = needed_views([seed for cell in wanted for seed in cell.seeds], 2)
        inputs, codes = self.manifests[: len(views)], [code] * len(wanted)
        run_batch(wanted, codes, inputs, self.stamp, progress=self.said.append)
        assert self.stamp.exists()
        return self.trained

    def documents(self) -> dict:
        found = {path.stem: json.loads(path.read_text()) for path in sorted(self.folder.glob("*.document"))}
        for document in found.values():
            del document["costs"]["train_seconds"]
        return found


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


def test_together_as_one_by_one(job, manifests):
    """Bit for bit, each from the views of its own seeds."""
    mixed = cells()
    assert [c.seeds for c in mixed] == [[0], [0], [1]]
    assert job.run(mixed) == NAMES
    features = open_views([path.parent for path in manifests])
    for cell in mixed:
        alone = run_cell(features, cell)
        del alone["costs"]["train_seconds"]
        assert job.documents()[cell.id] == alone


def test_a_job_that_was_killed_goes_on(job):
    mixed = cells()
    job.fails = {NAMES[1]: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        job.run(mixed)
    assert job.trained == NAMES[:1] == list(job.documents()) and not job.stamp.exists()
    job.fails = {}
    assert job.run(mixed) == NAMES[1:]
    assert f"{NAMES[0]}: finished by an earlier run of this job" in job.said
    resumed = job.documents()
    shutil.rmtree(job.folder)
    assert job.run(mixed) == NAMES and job.documents() == resumed


def test_asked_for_anew_it_is_trained_anew(job):
    """--forcerun: nothing has changed, and yet the job is run."""
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


def test_only_what_is_still_true_is_taken(job, monkeypatch):
    """Another setting, other code, other features, another library, another device."""
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
    shutil.rmtree(job.folder)
    job.run(mixed)
    monkeypatch.setattr(module, "versions", lambda: {"torch": "another"})
    assert job.run(mixed[:2]) == NAMES[:2]
    shutil.rmtree(job.folder)
    job.run(mixed)
    monkeypatch.setattr(
        module, "sha256_file", lambda path: sha256_file(path) + path.name.count("manifest") * "x"
    )
    assert job.run(mixed[:2]) == NAMES[:2]


def test_a_damaged_document_is_not_taken(job):
    mixed = cells()
    job.run(mixed)
    (job.folder / f"{NAMES[0]}.key").write_text("{")
    (job.folder / f"{NAMES[1]}.document").unlink()
    flipped = job.folder / f"{NAMES[2]}.document"
    text = flipped.read_text()
    flipped.write_text(text.replace('"seeds": [', '"seeds":  [', 1))
    assert flipped.read_text() != text
    more = make_cell("er", buffer=24, seeds=[0], views=2)
    assert job.run([*mixed, more]) == [*NAMES, "er-plain-m24-floats"]


def test_one_cell_that_fails_costs_the_others_nothing(job):
    mixed = cells()
    job.fails = {NAMES[1]: UserError("it diverged")}
    with pytest.raises(UserError, match=f"1 of 3 cells failed, the others are kept: {NAMES[1]}: it diverged"):
        job.run(mixed)
    assert job.trained == [NAMES[0], NAMES[2]] and not job.stamp.exists()
    job.fails = {}
    assert job.run(mixed) == [NAMES[1]]
