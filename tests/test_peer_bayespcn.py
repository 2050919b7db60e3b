"""BayesPCN compared with results of the authors' class on small inputs (see peer/README.md).

Everything is float64. Each comparison starts from the stored state, so that rounding does not accumulate. The
tolerances come from a second implementation of the same rules.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sharc_core.associative import ASSOCIATIVE_MEMORIES, cues
from sharc_core.associative.cues import Cues, MaskedWeights
from sharc_core.associative.matrix_normal import Grams, gram_of

FOLDER = Path(__file__).parent / "peer"
KIND = ASSOCIATIVE_MEMORIES.get("bayespcn")
SHAPE, HIDDEN = (16, 4, 4), 32
MASKS = ("class40", "own80", "shared80")
STRATEGIES = {"p_pred": "predictive", "map": "map"}
strategies = pytest.mark.parametrize("strategy", STRATEGIES)


@pytest.fixture(scope="module")
def peer() -> dict[str, torch.Tensor]:
    with np.load(FOLDER / "bayespcn.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


class Replayed(KIND):
    """Starts from given hidden units instead of draws, and records the steps of the optimisation."""

    def draw_start(self, what, offset, count):
        return self.starts[what][offset : offset + count].clone()

    def hidden_mode(self, bottom, *args, **kwargs):
        self.trace.append([])
        self.modes.append(super().hidden_mode(bottom, *args, **kwargs)[0])
        return [self.modes[-1]]

    def log_joint(self, state, bottom, *args, **kwargs):
        before = state.flatten(0, 1).clone(), None, None
        if isinstance(bottom, Cues):
            moving = torch.zeros(len(bottom.x), dtype=torch.int64).index_fill(0, bottom.active, 1)
            before = before[0], bottom.maps().clone(), moving
        value, gradient = super().log_joint(state, bottom, *args, **kwargs)
        if self.trace:
            self.trace[-1].append((value.clone(), *before))
        return value, gradient


def make(peer, strategy: str, state: str, log_joint: str | None = None) -> Replayed:
    """Return a memory in a stored state: initial (""), write0 or write1."""
    settings = KIND.Settings(hidden=HIDDEN, log_joint=STRATEGIES[log_joint or strategy])
    memory = Replayed(settings, SHAPE, 4)
    names = [f"{strategy}_{state}_{part}" for part in ("R", "U", "top_mean", "top_var")]
    names = names if state else ["R0", "U0", "top_mean0", "top_var0"]
    mean, covariance, top, variance = (peer[name].clone() for name in names)
    memory._prior_means = lambda: ([peer["R0"].clone()], peer["top_mean0"].clone())
    memory.layers[0].mean, memory.layers[0].covariance = mean, covariance
    memory.top_mean, memory.top_variance = top, float(variance)
    memory.written, memory.trace, memory.modes, memory.starts = 20, [], [], {}
    return memory


def close(found, expected, relative: float) -> None:
    """Assert that the largest difference, relative to the largest value, is within the tolerance."""
    assert found.dtype == expected.dtype == torch.float64 and found.shape == expected.shape
    assert (found - expected).abs().max() <= relative * expected.abs().max()


def same_state(memory, peer, name: str, relative: float) -> None:
    close(memory.layers[0].mean, peer[f"{name}_R"], relative)
    close(memory.layers[0].covariance, peer[f"{name}_U"], relative)
    close(memory.top_mean, peer[f"{name}_top_mean"], relative)
    close(torch.tensor(memory.top_variance, dtype=torch.float64), peer[f"{name}_top_var"], relative)


# --- log joints --------------------------------------------------------------------------------------


@strategies
@pytest.mark.parametrize("by", STRATEGIES)
@pytest.mark.parametrize("coupled", [True, False])
def test_log_joint_and_gradients_equal_the_authors(peer, strategy, by, coupled):
    """Compare with all entries free, and in Gram form with all clamped, including constants."""
    memory = make(peer, strategy, "write1", log_joint=by)
    x, hidden = peer["point_obs"], peer["point_hidden"][None]
    name = f"{strategy}_point_{by}_{'coupled' if coupled else 'alone'}"
    weights = MaskedWeights(memory.layers[0].mean, torch.zeros(10, 16, dtype=torch.bool), True)
    free = Cues(weights, torch.arange(10), x.clone(), torch.ones(1, 10, 1), 0.01, coupled and by == "p_pred")
    grams = Grams((x @ x.T)[None], (x @ memory.layers[0].mean.T)[None], gram_of(memory.layers[0].mean), 256)
    for bottom in (free, grams):
        value, gradient = memory.log_joint(hidden, bottom, coupled=coupled)
        close(value[0], peer[f"{name}_log_joint"], 1e-13)
        close(gradient[0], peer[f"{name}_grad_hidden"], 1e-13)
    (block,) = free.blocks
    close(10 * block.adam.first, peer[f"{name}_grad_obs"], 1e-13)  # the first moment is a tenth


# --- writing and forgetting --------------------------------------------------------------------------


@strategies
@pytest.mark.parametrize("batch", [0, 1])
def test_writing_equals_the_authors(peer, strategy, batch):
    memory = make(peer, strategy, "write0" if batch else "")
    memory.starts["write"] = peer["start_write"][batch]
    maps = peer["maps"][10 * batch : 10 * batch + 10].double()
    memory.write(maps, torch.zeros(10))
    name = f"{strategy}_write{batch}"
    (trace,) = memory.trace
    steps = json.loads((FOLDER / "bayespcn.json").read_text())["steps"]
    assert len(trace) == steps[name]
    values = torch.stack([value for value, *_ in trace])
    values = values.flatten() if strategy == "p_pred" else values.squeeze(1)
    close(values[:101], peer[f"{name}_log_joint"][:101], 1e-12)
    close(values[:201], peer[f"{name}_log_joint"][:201], 1e-9)
    close(values, peer[f"{name}_log_joint"], 1e-4)
    hidden = torch.stack([state for _, state, *_ in trace] + [memory.modes[0][0]])
    for step, expected in zip(peer["trace_steps"].tolist(), peer[f"{name}_hidden_trace"], strict=True):
        if step <= 200:
            close(hidden[step], expected, 1e-12 if step <= 100 else 1e-9)
    # the predictive optimisation of the first batch amplifies rounding from about step 250 on
    end = {"p_pred_write0": 3e-2, "p_pred_write1": 1e-12}.get(name, 1e-13)
    close(hidden[-1], peer[f"{name}_hidden"], end)
    same_state(memory, peer, name, end)


@strategies
@pytest.mark.parametrize("batch", [0, 1])
def test_conjugate_updates_equal_the_authors(peer, strategy, batch):
    """Start from the stored hidden units."""
    memory = make(peer, strategy, "write0" if batch else "")
    name = f"{strategy}_write{batch}"
    x = peer["maps"][10 * batch : 10 * batch + 10].double().flatten(1)
    memory.update(x, [peer[f"{name}_hidden"]])
    same_state(memory, peer, name, 1e-13)


@strategies
def test_forgetting_equals_the_authors(peer, strategy):
    memory = make(peer, strategy, "write1")
    for name in ("forget1", "forget2"):
        memory.forget(0.1)
        same_state(memory, peer, f"{strategy}_{name}", 1e-13)


# --- reading -----------------------------------------------------------------------------------------


def read(memory, peer, kind: int, members: slice) -> torch.Tensor:
    memory.starts["read"] = peer["start_read"][kind, members]
    masked = peer["cues"][kind, members].double()
    return memory.read(masked, peer["keep"][kind, members], torch.zeros(len(masked)))


@pytest.mark.slow
@strategies
@pytest.mark.parametrize(("mode", "block"), [("alone", 1024), ("batch", 1024), ("batch", 32)])
@pytest.mark.parametrize("kind", range(3), ids=MASKS)
def test_reading_equals_the_authors(peer, monkeypatch, strategy, kind, mode, block):
    """Read all cues in one call; cues in batches of one or ten share only the stop of the batch.

    With small blocks, columns that are observed in all cues of a mask use Gram matrices.
    """
    monkeypatch.setattr(cues, "BLOCK", block)
    memory = make(peer, strategy, "write1")
    memory.settings = memory.settings.model_copy(update={"batch": 10 if mode == "batch" else 1})
    recalled = read(memory, peer, kind, slice(0, 20))
    name = f"{strategy}_read_{MASKS[kind]}_{mode}"
    (trace,), (hidden,) = memory.trace, memory.modes
    close(trace[0][0].flatten(), peer[f"{name}_log_joint_start"], 1e-12)
    for found, key in ((recalled.flatten(1), "recalled"), (hidden.flatten(0, 1), "hidden")):
        expected = peer[f"{name}_{key}"].view_as(found)
        error = (found - expected).norm(dim=1) / expected.norm(dim=1)
        assert error.median() <= 1e-8 and error.max() <= 5e-2
    steps = torch.stack([active for *_, active in trace]).sum(0)
    other = (steps != peer[f"{name}_steps"]).sum()
    # single cues of p_pred approach the tolerance slowly, so rounding decides when they stop: a second
    # implementation differs for 1 to 3 of 20 cues, ours for 4 in one case
    assert other <= (4 if (mode, strategy) == ("alone", "p_pred") else 0)
    x, weights = recalled.flatten(1), memory.layers[0].mean
    ends = Grams((x @ x.T)[None], (x @ weights.T)[None], gram_of(weights), 256)
    value, _ = memory.log_joint(hidden.flatten(0, 1)[None], ends, coupled=False)
    expected = peer[f"{name}_log_joint_end"]
    error = (value[0] - expected).abs() / expected.abs()
    assert error.median() <= 1e-8 and error.max() <= 5e-2


@pytest.mark.slow
@strategies
def test_reading_traces_equal_the_authors(peer, strategy):
    kind, name = MASKS.index("own80"), f"{strategy}_read_own80_alone_trace"
    for cue in range(5):
        memory = make(peer, strategy, "write1")
        read(memory, peer, kind, slice(cue, cue + 1))
        (trace,) = memory.trace
        for number, step in enumerate(peer["trace_steps"].tolist()):
            if step > 200 or step >= len(trace):
                continue
            value, hidden, obs, _ = trace[step]
            tol = 1e-12 if step <= 100 else 1e-9
            close(value[0, 0], peer[f"{name}_log_joint"][cue, number], tol)
            close(hidden[0], peer[f"{name}_hidden"][cue, number], tol)
            close(obs[0], peer[f"{name}_obs"][cue, number], tol)
