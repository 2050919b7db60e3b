"""Every associative memory is close to the CPU on a GPU: draws are equal, sums differ by rounding."""

import pytest
import torch
from test_associative import CLASSES, SHAPE, cue, patterns

from sharc_core.associative import ASSOCIATIVE_MEMORIES

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_recall_on_a_gpu_is_close_to_the_cpu(name):
    kind = ASSOCIATIVE_MEMORIES.get(name)
    maps, labels = patterns(16)
    masked, mask = cue(maps)
    cpu, cuda = (kind(kind.Settings(), SHAPE, CLASSES, device=device) for device in ("cpu", DEVICE))
    recalled = []
    for memory in (cpu, cuda):
        memory.write(maps[:8], labels[:8])
        memory.forget(0.1)
        memory.write(maps[8:], labels[8:])
        full = memory.read(masked, mask, labels)
        assert full.device.type == memory.device.type
        recalled.append(full.cpu())
    assert (recalled[0] - recalled[1]).abs().mean() < 0.02
    assert cuda.state_bytes == cpu.state_bytes
    assert {tensor.device.type for tensor in cuda.tensors().values()} <= {DEVICE}

    for source, target in ((cuda, "cpu"), (cpu, DEVICE), (cuda, DEVICE)):
        twin = kind(kind.Settings(), SHAPE, CLASSES, device=target)
        twin.load_state_dict(source.state_dict())
        assert {tensor.device.type for tensor in twin.tensors().values()} <= {target}
        full = twin.read(masked.to(target), mask.to(target), labels.to(target)).cpu()
        assert (full - recalled[0]).abs().mean() < 0.02
        twin.write(maps, labels)
        twin.forget(1.0)
        assert torch.isfinite(twin.read(masked, mask, labels)).all()


def test_sweeps_in_order_on_a_gpu():
    kind = ASSOCIATIVE_MEMORIES.get("hopfield")
    settings = kind.Settings(update="asynchronous", rule="hebbian", threshold="mean")
    maps, labels = patterns(8)
    masked, mask = cue(maps)
    recalled = []
    for device in ("cpu", DEVICE):
        memory = kind(settings, SHAPE, CLASSES, device=device)
        memory.write(maps, labels)
        recalled.append(memory.read(masked, mask, labels).cpu())
    assert (recalled[0] - recalled[1]).abs().mean() < 0.02
