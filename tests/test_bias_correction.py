"""Weight alignment against a direct implementation, for every method that trains a head."""

from types import SimpleNamespace

import pytest
import torch
from factories import make_cell, make_features
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import HeadConfig
from sharc_core.grid.loading import load_grid
from sharc_core.heads import HEADS, make_head
from sharc_core.learning import learner
from sharc_core.learning.bias_correction import align, clipped_heads
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS

ALIGNED = ("weight_alignment", "unclipped_alignment")
LENGTHS = [kind for kind, head in HEADS.items() if head.has_lengths]
TRAINED = [
    name
    for name in METHODS.names()
    if METHODS.get(name).trains_head and METHODS.get(name).uses_training and not METHODS.get(name).joint
]


def config(correction: str, kind: str = "linear") -> HeadConfig:
    return HeadConfig(kind=kind, hidden=8, bias_correction=correction)


def toy_cell(method: str, correction: str, kind: str = "linear", variant: str = "plain"):
    selection = METHODS.get(method).selections[:1] or ("last",)
    if METHODS.get(method).replays_current_task:
        selection = ("reservoir",)
    return make_cell(method, variant, head=config(correction, kind), selection=selection[0])


@pytest.mark.parametrize("kind", LENGTHS)
def test_new_classes_get_the_mean_length_of_old_ones(kind):
    head = make_head(kind, 8, 3, 12, 6)
    head.initialise([0, 1, 2])
    weight = head.output_weight
    weight[:, 3:] *= 5
    before = weight.clone()
    others = {name: getattr(head, name).clone() for name in head.shapes if name != head.output}
    head.align([0, 1, 2], [3, 4])
    for r in range(3):  # the definition, one run at a time
        lengths = [sum(v * v for v in row.tolist()) ** 0.5 for row in before[r]]
        gamma = (sum(lengths[:3]) / 3) / (sum(lengths[3:5]) / 2)
        torch.testing.assert_close(weight[r, 3:5], gamma * before[r, 3:5])
        assert gamma < 0.5
    assert torch.equal(weight[:, :3], before[:, :3]) and torch.equal(weight[:, 5], before[:, 5])
    assert all(torch.equal(getattr(head, name), values) for name, values in others.items())


def stream_of(*seen: list[int]) -> SimpleNamespace:
    return SimpleNamespace(classes_seen=lambda number: seen[number])


def test_only_tasks_with_new_classes_are_aligned():
    calls = []
    head = SimpleNamespace(align=lambda old, new: calls.append((list(old), list(new))))
    method, stream = SimpleNamespace(trained_heads=[head]), stream_of([0, 1], [0, 1, 4, 3], [0, 1, 4, 3])
    for number in range(3):
        align(config("weight_alignment"), method, stream, number)
        align(config("none"), method, stream, number)
    assert calls == [([0, 1], [4, 3])]


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("method", TRAINED)
def test_every_trained_method_is_aligned_before_it_ends_a_task(method, kind, monkeypatch):
    """Each head that predicts, averages included, has equal mean lengths when `end_task` is called."""
    if kind not in METHODS.get(method).heads:
        pytest.skip("the method does not take this head")
    cls, seen = METHODS.get(method), []
    end = cls.end_task

    def checked(self, task, memory):
        for head in self.trained_heads:
            lengths = torch.linalg.vector_norm(head.output_weight, dim=2)
            old = [label for label in task.seen if label not in task.classes]
            if old:
                ratio = lengths[:, list(task.classes)].mean(1) / lengths[:, old].mean(1)
                torch.testing.assert_close(ratio, torch.ones(3), rtol=1e-4, atol=1e-4)
                seen.append(task.number)
        return end(self, task, memory)

    monkeypatch.setattr(cls, "end_task", checked)
    monkeypatch.setattr(cls, "advances_together", True)
    run_cell(make_features(), toy_cell(method, "unclipped_alignment", kind))
    assert set(seen) == {1, 2}


def test_the_averages_of_cls_er_are_aligned_too():
    heads = []
    method = METHODS.get("clser")
    made = make_head("linear", 0, 2, 12, 6)
    made.initialise([0, 1])
    clser = method(made, method.Settings(), 0.1, 3, [torch.Generator() for _ in range(2)])
    heads = clser.trained_heads
    assert heads[0] is clser.head and {id(h) for h in heads[1:]} == {id(clser.stable), id(clser.plastic)}
    assert METHODS.get("ncm").trains_head is False


@pytest.mark.parametrize("method", ["er", "clser", "mer", "agem"])
def test_clipped_weights_are_never_negative(method, monkeypatch):
    """After every step, in all heads that predict; without the correction some are negative."""
    negative: dict[str, set] = {"weight_alignment": set(), "unclipped_alignment": set()}
    evaluate = learner.evaluate
    for correction, found in negative.items():

        def evaluated(tests, stream, method, device="cpu", found=found):
            for head in method.trained_heads:
                found.add(bool((head.output_weight < 0).any()))
            return evaluate(tests, stream, method, device)

        with monkeypatch.context() as patch:
            patch.setattr(learner, "evaluate", evaluated)
            run_cell(make_features(), toy_cell(method, correction))
    assert negative == {"weight_alignment": {False}, "unclipped_alignment": {True}}


def test_a_run_equals_plain_sgd_with_clipping_and_alignment(monkeypatch):
    """The slow way, one minibatch at a time, on the batches that the learner saw."""
    cls, batches, final = METHODS.get("sgd"), [], []
    observe, end = cls.observe, cls.end_task
    monkeypatch.setattr(
        cls,
        "observe",
        lambda self, b, m: batches[-1].append((b.x.clone(), b.y.clone())) or observe(self, b, m),
    )
    begin = cls.begin_task
    monkeypatch.setattr(cls, "begin_task", lambda self, t, m: batches.append([]) or begin(self, t, m))
    monkeypatch.setattr(
        cls, "end_task", lambda self, t, m: final.append(self.head.vector.clone()) or end(self, t, m)
    )
    run_cell(make_features(), toy_cell("sgd", "weight_alignment"))
    for r in range(3):
        head = make_head("linear", 0, 1, 12, 6)
        head.initialise([r])
        w, b = head.weight[0].clone().clamp(min=0), head.bias[0].clone()
        for task, pairs in enumerate(batches):
            for x, y in pairs:
                w, b = w.requires_grad_(), b.requires_grad_()
                with torch.enable_grad():
                    loss = torch.nn.functional.cross_entropy(x[r] @ w.T + b, y[r])
                    gradients = torch.autograd.grad(loss, (w, b))
                w, b = (w - 0.1 * gradients[0]).detach().clamp(min=0), (b - 0.1 * gradients[1]).detach()
            if task:
                old, new = w[: 2 * task].norm(dim=1).mean(), w[2 * task : 2 * task + 2].norm(dim=1).mean()
                w[2 * task : 2 * task + 2] *= old / new
        head.weight[0], head.bias[0] = w, b
        torch.testing.assert_close(final[-1][r], head.vector[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("correction", ALIGNED)
@pytest.mark.parametrize("method", ["ncm", "gdumb", "icarl"])
def test_methods_that_do_not_predict_with_the_streams_head_are_left_alone(method, correction):
    documents = [run_cell(make_features(), toy_cell(method, name)) for name in ("none", correction)]
    assert documents[0]["matrix"] == documents[1]["matrix"]


def test_the_hidden_units_of_icarl_change():
    names = ("none", "weight_alignment")
    documents = [run_cell(make_features(), toy_cell("icarl", name, "mlp")) for name in names]
    assert documents[0]["matrix"] != documents[1]["matrix"]


def test_joint_has_no_later_task_to_align_but_is_clipped():
    names = ("none", "unclipped_alignment", "weight_alignment")
    none, aligned, clipped = (run_cell(make_features(), toy_cell("joint", name))["matrix"] for name in names)
    assert none == aligned and none != clipped


def test_sharc_replays_with_aligned_heads():
    documents = [run_cell(make_features(), toy_cell("er", c, variant="sharc")) for c in ("none", *ALIGNED)]
    assert len({str(document["matrix"]) for document in documents}) == 3
    assert len({document["costs"]["learner_bytes"][0] for document in documents}) == 1


def test_the_default_leaves_older_hashes_as_they_are():
    assert HeadConfig().model_dump() == {"kind": "linear", "hidden": 256}
    assert config("weight_alignment").model_dump()["bias_correction"] == "weight_alignment"
    assert HeadConfig(kind="cosine").model_dump() == {"kind": "cosine", "hidden": 256, "scale": 10.0}
    for made in (config("weight_alignment"), HeadConfig(kind="cosine", scale=3.0)):
        assert HeadConfig.model_validate(made.model_dump()) == made


def test_clipped_heads_are_clipped_at_once():
    made = make_head("linear", 0, 2, 12, 6)
    made.initialise([0, 1])
    method = SimpleNamespace(trained_heads=[made])
    assert clipped_heads(config("unclipped_alignment"), method) == [] and bool((made.weight < 0).any())
    assert clipped_heads(config("weight_alignment"), method) == [made] and not bool((made.weight < 0).any())


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            {"kind": "cosine", "bias_correction": "weight_alignment"},
            "head.bias_correction weight_alignment cannot",
        ),
        ({"bias_correction": "bic"}, "head.bias_correction"),
        ({"kind": "cosine", "scale": 0}, "head.scale"),
        ({"kind": "cosin"}, "head.kind"),
    ],
)
def test_bad_settings_are_refused(head, message):
    with pytest.raises(UserError, match=rf"^config: {message}") as caught:
        load_grid(BASE | {"head": head})
    assert "\n" not in str(caught.value)


def test_integrated_gradients_of_a_cosine_head_are_refused():
    sharc = {"saliency": ["gradient", "integrated_gradients"]}
    with pytest.raises(
        UserError, match=r"^config: sharc.saliency integrated_gradients cannot be combined with h"
    ):
        load_grid(BASE | {"head": {"kind": "cosine"}, "sharc": sharc})
    load_grid(BASE | {"head": {"kind": "cosine"}, "sharc": sharc, "variants": ["plain"]})


@pytest.mark.parametrize("method", ["er", "clser", "gem"])
@pytest.mark.parametrize(("kind", "correction"), [("linear", "weight_alignment"), ("cosine", "none")])
def test_five_together_equal_five_apart(method, kind, correction, monkeypatch):
    """Bit for bit at a width of backbones, with SHARC, whose saliency depends on the head."""
    torch.set_num_threads(1)
    features, vectors = make_features(channels=320, train_per_class=30), []
    kind_of = METHODS.get(method)
    end = kind_of.end_task
    monkeypatch.setattr(
        kind_of, "end_task", lambda self, t, m: vectors.append(self.head.vector.clone()) or end(self, t, m)
    )
    cell = toy_cell(method, correction, kind, "sharc").model_copy(update={"seeds": [0, 1, 2, 3, 4]})
    run_cell(features, cell)
    together = vectors[-1]
    for r, seed in enumerate(cell.seeds):
        run_cell(features, cell.model_copy(update={"seeds": [seed]}))
        assert torch.equal(vectors[-1][0], together[r])
