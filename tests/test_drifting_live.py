"""The learner on drifting features, compared with a plain torch training loop that contains the network.

The loop follows the behaviour of the published code (tests/peer/README.md, sections 2, 3 and 5). Both sides
share only the stream, the head's initial weights, the replay's draws and an associative memory.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from sharc_core.associative.base import AssociativeMemory
from sharc_core.backbones import Backbone, BackboneConfig
from sharc_core.backbones.preprocess import resolve
from sharc_core.features.drifting.extract import Extraction
from sharc_core.features.drifting.part import Kept
from sharc_core.features.drifting.reading import open_drifting
from sharc_core.grid.drifting_parts import parts_of
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.heads import make_head
from sharc_core.learning import learner
from sharc_core.learning.costs import Costs
from sharc_core.methods import METHODS
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream

torch.set_num_threads(1)

CLASSES, TASKS, SHAPE = 6, 3, (12, 4, 4)
BATCH, BUFFER, LR = 10, 30, 1.0
SLOTS = BUFFER // TASKS
PASSES = {"er": 2, "gem": 2, "derpp": 3}
SEEDS = [0, 3]
TOLERANCE = 1e-12
CODE_RUNS = [(method, theta) for method in PASSES for theta in (0.0, 0.5, 0.8)]
PAPER_RUNS = [("er", 0.0), ("er", 0.5), ("derpp", 0.0), ("derpp", 0.8)]


class Network(nn.Module):
    """Two convolutions with batch norms of different momentum."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, SHAPE[0], 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(SHAPE[0], momentum=0.25)

    def forward(self, x):
        return self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu()


def make_network() -> Network:
    """Return the same float64 network at every call."""
    torch.manual_seed(1)
    network = Network().double()
    for norm in (network.norm1, network.norm2):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 2)
    return network


def make_backbone() -> Backbone:
    config = BackboneConfig(arch="resnet_small", weights="pretrain", image_size=8, batch_norm="drifting")
    body = torch.fx.symbolic_trace(make_network()).double()
    backbone = Backbone(body, config, SHAPE, "0" * 64, resolve(config), fuse=False)
    backbone.preprocess = lambda images: images
    return backbone


def make_images() -> SimpleNamespace:
    """Return images with a pattern and a colour per class that become brighter, so that statistics drift.

    With 24 training images per class, each task ends with a batch of 8.
    """
    source = np.random.default_rng(0)
    patterns = source.normal(size=(CLASSES, 3, 8, 8)) * 0.7 + source.normal(size=(CLASSES, 3, 1, 1))
    patterns += np.linspace(-0.3, 0.45, CLASSES)[:, None, None, None]

    def split(per_class):
        labels = np.repeat(np.arange(CLASSES), per_class)
        return patterns[labels] + source.normal(size=(len(labels), 3, 8, 8)), labels

    train, test = split(24), split(10)
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return SimpleNamespace(
        manifest={"classes": list("abcdef")}, **dict(zip(names, train + test, strict=True))
    )


IMAGES = make_images()
LABELS = torch.from_numpy(IMAGES.train_labels)
TEST_LABELS = torch.from_numpy(IMAGES.test_labels)
STREAM = make_stream(LABELS, TEST_LABELS, CLASSES, StreamConfig(tasks=TASKS))


def first_weights(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(100 + seed)
    shapes = (CLASSES, SHAPE[0]), (CLASSES,)
    return tuple(0.3 * torch.randn(shape, generator=source).double() for shape in shapes)


def uniform_draws(seed: int):
    """Return an iterator of rows (10,) in [0, 1), one for each replay minibatch."""
    return iter(torch.rand(200, BATCH, generator=torch.Generator().manual_seed(seed)))


class Blend:
    """An associative memory whose recall depends on all writes and forgets and on the cue."""

    state_bytes = 0
    picks = False
    learns_together = False
    write_all = classmethod(AssociativeMemory.write_all.__func__)
    read_all = AssociativeMemory.read_all

    def __init__(self):
        self.sum, self.weight, self.written = torch.zeros(SHAPE).double(), 0.0, 0

    def write(self, maps, labels):
        self.sum, self.weight = self.sum + maps.sum(0), self.weight + len(maps)
        self.written += len(maps)

    def write_rows(self, rows, labels):
        self.write(rows[:], labels)

    def forget(self, beta):
        self.sum, self.weight = (1 - beta) * self.sum + beta, (1 - beta) * self.weight

    def read(self, maps, mask, labels):
        seen = torch.where(mask[:, :, None, None], maps, 0.0)
        guess = self.sum / (1 + self.weight) * (1 + seen.mean((1, 2, 3)))[:, None, None, None]
        return torch.where(mask[:, :, None, None], maps, guess)


# The loop


class Live:
    """A whole run. rows: accuracies in percent by task; stored: stored samples by task, in order."""

    def __init__(self, method: str, theta: float, seed: int):
        self.method, self.theta, self.seed = method, theta, seed
        self.network = make_network().train()
        self.head = nn.Linear(SHAPE[0], CLASSES).double()
        with torch.no_grad():
            for parameter, values in zip(self.head.parameters(), first_weights(seed), strict=True):
                parameter.copy_(values)
        self.am, self.draws = Blend(), uniform_draws(seed)
        self.stored: list[list[SimpleNamespace]] = []
        self.heads, self.rows = [], []

    def run(self) -> "Live":
        for task in range(TASKS):
            self.learn(STREAM.order(task, 0, [self.seed])[0])
            self.heads.append([p.detach().clone() for p in self.head.parameters()])
            self.rows.append([self.accuracy(other) for other in range(min(task + 2, TASKS))])
        return self

    def maps(self, index: torch.Tensor) -> torch.Tensor:
        images = torch.from_numpy(IMAGES.train_images[index.numpy()])
        with torch.no_grad():
            seen = [self.network(images) for _ in range(PASSES[self.method])]
        assert all(torch.equal(one, seen[0]) for one in seen), "passes differ in the statistics only"
        return seen[0]

    def step(self, maps: torch.Tensor, y: torch.Tensor) -> None:
        loss = cross_entropy(self.head(maps.mean((2, 3))), y)
        gradient = self.gradient(loss + self.replay_loss())
        if self.method == "gem" and self.stored:
            gradient = projected(gradient, [self.gradient(self.loss_on(rows)) for rows in self.stored])
        with torch.no_grad():
            sizes = [p.numel() for p in self.head.parameters()]
            for p, values in zip(self.head.parameters(), gradient.split(sizes), strict=True):
                p -= LR * values.view_as(p)

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(self.head.parameters()))])

    def replay_loss(self) -> torch.Tensor:
        if not self.stored or self.method == "gem":
            return torch.zeros(()).double()
        if self.method == "derpp":
            first, second = self.drawn(), self.drawn()
            logits = torch.stack([row.logits for row in first])
            return 0.1 * mse_loss(self.head(vectors(first)), logits) + 0.5 * self.loss_on(second)
        return self.loss_of_er()

    def loss_of_er(self) -> torch.Tensor:
        raise NotImplementedError  # abstract

    def loss_on(self, rows: list[SimpleNamespace]) -> torch.Tensor:
        return cross_entropy(self.head(vectors(rows)), torch.stack([row.y for row in rows]))

    def drawn(self) -> list[SimpleNamespace]:
        everything = sum(self.stored, [])
        return [everything[i] for i in (next(self.draws) * len(everything)).long().tolist()]

    def accuracy(self, task: int) -> list[float]:
        """Return Class-IL and Task-IL accuracy with the current statistics."""
        index, own = STREAM.test[task], torch.tensor(STREAM.classes_per_task[task])
        with torch.no_grad():
            maps = self.network.eval()(torch.from_numpy(IMAGES.test_images[index.numpy()]))
            logits = self.head(maps.mean((2, 3)))
        self.network.train()
        y = TEST_LABELS[index]
        right = [logits.argmax(1) == y, own[logits[:, own].argmax(1)] == y]
        return [100 * hits.double().mean().item() for hits in right]


def vectors(rows: list[SimpleNamespace]) -> torch.Tensor:
    return torch.stack([row.replayed for row in rows]).mean((2, 3))


def projected(gradient: torch.Tensor, past: list[torch.Tensor]) -> torch.Tensor:
    """Return GEM's step (margin 0.5, ridge 1e-3): the best over all sets of multipliers at the margin."""
    matrix = torch.stack(past)
    product = matrix @ gradient
    if bool((product >= 0).all()):
        return gradient
    gram = matrix @ matrix.T + 1e-3 * torch.eye(len(past)).double()
    best, least = None, math.inf
    for bits in range(2 ** len(past)):
        free = [i for i in range(len(past)) if bits >> i & 1]
        v = torch.full((len(past),), 0.5).double()
        if free:
            rest = product[free] + gram[free] @ v - gram[free][:, free] @ v[free]
            v[free] = torch.linalg.solve(gram[free][:, free], -rest)
        value = (v @ gram @ v / 2 + product @ v).item()
        if bool((v >= 0.5).all()) and value < least:
            best, least = v, value
    return gradient + best @ matrix


class CodeLoop(Live):
    """The code's protocol: memory operations at the visit, whole batches, the authors' replay."""

    def learn(self, order: torch.Tensor) -> None:
        held: list[SimpleNamespace] = []
        entries, batches = 0, order.split(BATCH)
        for number, index in enumerate(batches):
            maps, y = self.maps(index), LABELS[index]
            weight, logits = self.head.weight.detach().clone(), self.head(maps.mean((2, 3))).detach()
            self.step(maps, y)
            keep = torch.ones(len(index), SHAPE[0], dtype=torch.bool)
            if self.theta:
                importance = (weight[y] / math.prod(SHAPE[1:])).clamp_min(0).numpy()
                bound = np.percentile(importance, 100 * self.theta, axis=1, keepdims=True)
                keep = torch.from_numpy(importance >= bound)
            masked = torch.where(keep[:, :, None, None], maps, 0.0)
            values, is_completed = masked, False
            if self.theta and number >= len(batches) - math.ceil(SLOTS / BATCH):
                self.am.forget(0.1)
                self.am.write(maps, y)
                values, is_completed = self.am.read(masked, keep, y), True
            new = [
                SimpleNamespace(
                    index=int(index[i]),
                    replayed=values[i],
                    y=y[i],
                    keep=keep[i] | is_completed,
                    logits=logits[i],
                    needed=int((masked[i] != 0).sum()),
                )
                for i in range(len(index))
            ]
            held, entries = filled(held, entries, new)
        self.stored.append(held)

    def loss_of_er(self) -> torch.Tensor:
        return sum(self.loss_on(rows) for rows in self.stored) / len(self.stored)


def filled(held: list, entries: int, new: list) -> tuple[list, int]:
    """Return the authors' buffer of a task after a batch, and its counter."""
    allowance, needed = SLOTS * math.prod(SHAPE), sum(row.needed for row in new)
    if not held or entries + needed <= allowance:
        return held + new, entries + needed
    for k in range(1, len(held) + 1):
        released = sum(row.needed for row in held[:k])
        if entries + needed - released <= allowance:
            return held[k:] + new[:k], entries - released + sum(row.needed for row in new[:k])
    return held, entries


class PaperLoop(Live):
    """The paper's protocol: the last samples, masked at the task's end, completed before each later task."""

    def learn(self, order: torch.Tensor) -> None:
        if self.theta:
            for rows in self.stored:
                cues, keep = (
                    torch.stack([getattr(row, name) for row in rows]) for name in ("masked", "keep")
                )
                for row, full in zip(rows, self.am.read(cues, keep, None), strict=True):
                    row.replayed = full
        visited = []
        for index in order.split(BATCH):
            maps = self.maps(index)
            self.step(maps, LABELS[index])
            visited += list(maps)
        channels = SHAPE[0] - math.floor(self.theta * SHAPE[0])
        number = BUFFER * SHAPE[0] // TASKS // channels
        kept = []
        for index, one in list(zip(order.tolist(), visited, strict=True))[-number:]:
            weight, keep = self.head.weight.detach()[LABELS[index]].abs(), torch.zeros(SHAPE[0]).bool()
            keep[weight.topk(channels).indices] = True
            masked = torch.where(keep[:, None, None], one, 0.0)
            logits = self.head(one.mean((1, 2))).detach()
            values = {"replayed": masked, "masked": masked, "full": one, "keep": keep, "logits": logits}
            kept.append(SimpleNamespace(index=index, y=LABELS[index], **values))
        if self.theta:
            if self.stored:
                self.am.forget(0.1)
            self.am.write(torch.stack([row.full for row in kept]), None)
        self.stored.append(kept)

    def loss_of_er(self) -> torch.Tensor:
        return self.loss_on(self.drawn())


# The product


def make_cell(method: str, theta: float, protocol: str, seeds: list[int]):
    sharc = {"theta": theta} | ({} if protocol == "code" else {"forget": {"every": 1}})
    (cell,) = cells(
        load_grid(
            {
                "datasets": {"live": {"source": "digits", "tasks": TASKS}},
                "backbone": {
                    "arch": "resnet_small",
                    "weights": "pretrain",
                    "image_size": 32,
                    "batch_norm": "drifting",
                },
                "methods": [method],
                "variants": ["sharc" if theta else "plain"],
                "buffers": [BUFFER],
                "scenarios": ["class_il"],
                "seeds": seeds,
                "protocol": protocol,
                "sharc": sharc,
            }
        )
    )
    return cell.model_copy(update={"storage": "float64"})


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """All parts that the cells read, extracted in float64."""
    root = tmp_path_factory.mktemp("live")
    parts = parts_of([make_cell(method, 0.5, "paper", SEEDS) for method in PASSES], Kept(None))
    for part in parts:
        extraction = Extraction(IMAGES, STREAM, make_backbone(), maps=torch.float64, pooled=torch.float64)
        train = root / part.source(Kept(None)).name if part.kind == "tests" else None
        extraction.run(part, root / part.name, train)
    return open_drifting([root / part.name for part in parts])


def product(features, cell) -> SimpleNamespace:
    """Run the learner on drifting features with the loop's weights, draws and associative memory."""
    head = make_head("linear", 0, len(cell.seeds), SHAPE[0], CLASSES).double()
    for r, seed in enumerate(cell.seeds):
        head.weight[r], head.bias[r] = first_weights(seed)
    kind = METHODS.get(cell.method)
    settings = kind.Settings.model_validate(cell.method_settings)
    method = kind(head, settings, LR, BATCH, [torch.Generator() for _ in cell.seeds])
    store = learner.make_memory(features, STREAM, cell)
    store.replay.draws = [uniform_draws(seed) for seed in cell.seeds]
    store.replay.sampler = lambda draws, population, size, block: SimpleNamespace(
        draw=lambda: (next(draws) * population).long()[None]
    )
    if store.sharc is not None:
        store.sharc.associative[:] = [Blend() for _ in cell.seeds]
    heads, evaluate = [], learner.evaluate

    def evaluating(tests, stream, tested, device="cpu"):
        heads.append((tested.head.weight.clone(), tested.head.bias.clone()))
        return evaluate(tests, stream, tested, device)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(learner, "evaluate", evaluating)
        rows = learner._train(features, STREAM, cell, method, store, [], Costs(cell.passes), "cpu", None)
    return SimpleNamespace(heads=heads, rows=rows, store=store)


def check_equal(ours: SimpleNamespace, live: Live, replica: int = 0) -> None:
    """Assert equal heads and accuracies after each task, and equal stored samples."""
    for task, heads in enumerate(live.heads):
        for got, wanted in zip(ours.heads[task], heads, strict=True):
            torch.testing.assert_close(got[replica], wanted, rtol=TOLERANCE, atol=TOLERANCE)
        for scenario, values in zip(("class_il", "task_il"), zip(*live.rows[task], strict=True), strict=True):
            row = ours.rows[task][scenario][replica]
            assert row[: len(values)].tolist() == pytest.approx(list(values), abs=1e-9)
            assert bool(row[len(values) :].isnan().all()), "tasks beyond the next one are not tested"
    for stored, wanted in zip(ours.store.stored, live.stored, strict=True):
        assert stored.index[replica].tolist() == [row.index for row in wanted]
        assert stored.y[replica].tolist() == [int(row.y) for row in wanted]
        if live.method == "derpp":
            logits = torch.stack([row.logits for row in wanted])
            torch.testing.assert_close(stored.logits[replica], logits, rtol=TOLERANCE, atol=TOLERANCE)
        sparse = stored.sparse[replica]
        assert torch.equal(sparse.mask, torch.stack([row.keep for row in wanted]))
        values = torch.stack([getattr(row, "masked", row.replayed) for row in wanted])
        torch.testing.assert_close(sparse.decode(), values, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "theta"), CODE_RUNS)
def test_a_live_loop_under_the_codes_protocol_gives_the_same_run(method, theta, features):
    live = CodeLoop(method, theta, 3).run()
    check_equal(product(features, make_cell(method, theta, "code", [3])), live)
    sizes = [len(rows) for rows in live.stored]
    assert min(sizes) >= BATCH, "a task's first batch is always held"
    if theta:
        assert max(sizes) > SLOTS, "dropping channels makes room"
        assert any(not bool(row.keep.all()) for rows in live.stored for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "theta"), PAPER_RUNS)
def test_a_live_loop_under_the_papers_protocol_gives_the_same_runs(method, theta, features):
    """Two seeds run together."""
    ours = product(features, make_cell(method, theta, "paper", SEEDS))
    for replica, seed in enumerate(SEEDS):
        check_equal(ours, PaperLoop(method, theta, seed).run(), replica)


def test_the_loops_accuracies_depend_on_the_drift_and_its_weights_do_not():
    """Hence the runs above also compare test features: accuracies are neither constant nor at chance."""
    drifting, frozen = CodeLoop("er", 0.5, 3), CodeLoop("er", 0.5, 3)
    for layer in (frozen.network.norm1, frozen.network.norm2):
        layer.momentum = 0.0
    assert torch.equal(drifting.run().heads[-1][0], frozen.run().heads[-1][0])
    pairs = zip(sum(drifting.rows, []), sum(frozen.rows, []), strict=True)
    assert sum(one != other for one, other in pairs) >= 4
    assert max(drifting.rows[0][0]) > 60


def test_the_loops_gem_projects_onto_what_conflicts_with_no_past_task():
    past = [torch.tensor([-1.0, 0.2, 0.0]).double(), torch.tensor([-1.0, 0.0, 0.5]).double()]
    step = projected(torch.tensor([1.0, 0.0, 0.0]).double(), past)
    assert all(float(step @ one) > 0 for one in past)
