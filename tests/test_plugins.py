"""A plug-in of every kind is one new file. Temporary ones are run in a real grid.

For a temporary study see test_studies.py.
"""

import pandas as pd
import pytest
import yaml
from snake import copy_project, sharc_core, snakemake

FILES = {
    "datasets/squares.py": '''
"""Grey squares: a brightness per class, with noise."""

import numpy as np

from sharc_core.datasets.base import SOURCES, SPLITS, Source, writing


@SOURCES.register("squares")
class Squares(Source):
    def class_names(self):
        return list("abcd")

    def counts(self):
        return dict.fromkeys(SPLITS, 40)

    def prepare(self, out, progress=None):
        draws, labels = np.random.default_rng(0), np.repeat(np.arange(4), 10)
        with writing(self, out, self.counts(), (16, 16)) as writer:
            for split in SPLITS:
                noise = draws.integers(0, 20, (40, 16, 16, 3))
                writer.add(split, (noise + 60 * labels[:, None, None, None]).astype(np.uint8), labels)
''',
    "methods/half.py": '''
"""Replay at half the weight."""

from sharc_core.methods.base import METHODS, Method


@METHODS.register("half")
class Half(Method):
    def observe(self, batch, memory):
        loss = self.head.cross_entropy(batch)
        if memory:
            loss += 0.5 * self.head.cross_entropy(memory.sample(self.replay_batch_size))
        self.head.descend(loss, self.lr)
''',
    "methods/constant.py": '''
"""A closed form: the class that was seen last."""

import torch

from sharc_core.methods.base import METHODS, Method


@METHODS.register("constant")
class Constant(Method):
    heads = ("linear",)
    trains_head = False
    uses_memory = False

    def observe(self, batch, memory):
        self.last = batch.y[:, -1]

    def predict(self, x):
        scores = torch.full((*x.shape[:2], self.head.classes), -torch.inf)
        if not hasattr(self, "last"):
            return scores
        return scores.scatter(2, self.last[:, None, None].expand(-1, x.shape[1], 1), 0.0)
''',
    "saliency/size.py": '''
"""The size of a feature."""

from sharc_core.saliency.base import SALIENCIES


@SALIENCIES.register("size")
def size(head, x, y, positions, generators):
    return x.abs()
''',
    "associative/ones.py": '''
"""Fills with ones."""

import torch

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory


@ASSOCIATIVE_MEMORIES.register("ones")
class Ones(AssociativeMemory):
    def learn(self, maps, labels):
        pass

    def complete(self, maps, mask, labels):
        return torch.ones_like(maps)

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples):
        return 0
''',
    "representations/brain.py": '''
"""Values in bfloat16."""

import torch

from sharc_core.representations import REPRESENTATIONS
from sharc_core.representations.sparse_maps import Float16


@REPRESENTATIONS.register("brain")
class Brain(Float16):
    dtype = torch.bfloat16
    is_cache_format = False
''',
    "selection/first.py": '''
"""The first samples of a task."""

import torch

from sharc_core.selection.base import SELECTIONS, TaskSelection


@SELECTIONS.register("first")
class First(TaskSelection):
    def rank(self, candidates):
        return torch.arange(len(candidates.labels))
''',
}
GRID = {
    "datasets": {"s_squares": {"source": "squares", "tasks": 2}},
    "backbone": {
        "arch": "resnet_small",
        "weights": "pretrain",
        "image_size": 16,
        "pretrain": {
            "dataset": {"source": "glyphs", "classes": 4, "train_per_class": 4, "test_per_class": 2},
            "epochs": 1,
        },
    },
    "methods": ["half", "constant"],
    "buffers": [8],
    "scenarios": ["class_il"],
    "seeds": [0],
    "sharc": {"theta": 0.5, "saliency": "size", "associative_memory": "ones"},
    "storage": "brain",
    "memory": {"selection": "first"},
}


@pytest.mark.pipeline
def test_a_plug_in_of_every_kind_is_one_file(tmp_path):
    copy_project(tmp_path)
    for name, text in FILES.items():
        path = tmp_path / "sharc_core" / name
        assert not path.exists()
        path.write_text(text)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GRID))
    done = snakemake(tmp_path, "--configfile", "mine.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = pd.read_csv(tmp_path / "results/runs.csv")
    assert sorted(zip(runs["method"], runs["variant"], strict=True)) == [
        ("constant", "plain"),
        ("half", "plain"),
        ("half", "sharc"),
    ]
    constant, plain, sharc = (runs[runs["method"] == m] for m in ("constant", "half", "half"))
    assert constant["acc"].item() == 25.0, "one class of four"
    plain, sharc = (plain[plain["variant"] == v] for v in ("plain", "sharc"))
    assert sharc["saliency"].item() == "size" and sharc["associative_memory"].item() == "ones"
    assert plain["storage"].item() == "brain" and plain["samples_stored"].item() == 8
    assert sharc["samples_stored"].item() == 16, "half the channels"
    assert "HALF" in (tmp_path / "results/report.html").read_text()
    checked = sharc_core(tmp_path, "verify", "results")
    assert checked.returncode == 0, checked.stdout + checked.stderr
