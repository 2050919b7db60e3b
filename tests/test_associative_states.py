"""States of associative memories: save, load and refuse."""

import pytest
import torch
from test_associative import WRITING, cue, make, patterns

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_state_round_trip(name):
    """A memory that loads another's state reads and learns with the same bits from then on."""
    memory, twin = make(name), make(name)
    maps, labels = patterns(24)
    masked, mask = cue(maps)
    for start in (0, 8, 16):
        written = slice(start, start + 8)
        twin.load_state_dict(memory.state_dict())
        for each in (memory, twin):
            if start:
                each.forget(0.1)
            each.write(maps[written], labels[written])
        recalled = [each.read(masked, mask, labels) for each in (memory, twin)]
        assert torch.equal(*recalled)
        assert twin.written == memory.written == start + 8
        assert twin.state_bytes == memory.state_bytes
    for key, value in memory.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key])


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_a_state_is_a_snapshot(name):
    """Later writes to either memory do not change the state."""
    memory, twin = make(name), make(name)
    maps, labels = patterns(16)
    memory.write(maps[:8], labels[:8])
    state = memory.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    twin.load_state_dict(state)
    for each in (memory, twin):
        each.write(maps[8:], labels[8:])
        each.forget(0.5)
        assert all(torch.equal(value, before[key]) for key, value in state.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITING)
def test_a_loaded_memory_knows_whether_it_was_written(name):
    maps, labels = patterns()
    masked, mask = cue(maps)
    memory, twin = make(name), make(name)
    twin.write(maps, labels)
    twin.load_state_dict(memory.state_dict())
    with pytest.raises(UserError, match=f"{name} was read before anything was written"):
        twin.read(masked, mask, labels)
    for each in (memory, twin):
        each.write(maps[:8], labels[:8])  # the first write: scales and thresholds are set
        each.forget(1.0)
    twin.load_state_dict(memory.state_dict())
    recalled = [each.read(masked, mask, labels) for each in (memory, twin)]
    assert torch.equal(*recalled) and torch.isfinite(recalled[0]).all()


@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_a_state_that_does_not_fit_is_one_clear_line(name):
    memory, other = make(name), make(name)
    memory.write(*patterns())
    state = memory.state_dict()
    for key, value in state.items():
        rest = {each: tensor for each, tensor in state.items() if each != key}
        for wrong, told in (
            (rest, "is missing"),
            (rest | {key: value[..., None]}, f"is {value.dtype} of"),
            (
                rest | {key: value.to(torch.float16 if value.dtype != torch.float16 else torch.int8)},
                "is torch",
            ),
        ):
            with pytest.raises(UserError, match=f"{name} cannot take over a state: {key} {told}"):
                other.load_state_dict(wrong)
    with pytest.raises(UserError, match=f"{name} cannot take over a state: more is unknown"):
        other.load_state_dict(state | {"more": torch.zeros(1)})
    assert other.written == 0
