"""Seconds by phase: they go to the innermost phase, add up, and disturb no result."""

import time

import pytest
from factories import make_cell, make_features

from sharc_core.common import phases
from sharc_core.common.phases import (
    OTHER,
    PHASES,
    READING,
    SALIENCY,
    STEPS,
    TESTING,
    WRITING,
    measured,
    phase,
)
from sharc_core.learning.learner import run_cell


@pytest.fixture
def clock(monkeypatch):
    """A clock that only advances when a test says so."""
    now = [100.0]
    monkeypatch.setattr(phases.time, "perf_counter", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_a_second_belongs_to_the_innermost_phase(clock):
    @phase(WRITING)
    def write():
        clock(3)

    with measured() as seconds:
        clock(1)
        with phase(STEPS):
            clock(2)
            write()
            write()
            with phase(READING):
                clock(5)
            clock(7)
    clock(100)
    assert seconds == dict.fromkeys(PHASES, 0.0) | {OTHER: 1, STEPS: 9, WRITING: 6, READING: 5}


def test_phases_end_with_an_error_and_without_a_measurement(clock):
    with measured() as seconds:

        @phase(STEPS)
        def fail():
            clock(2)
            raise ValueError

        with pytest.raises(ValueError):
            fail()
        clock(1)
    assert (seconds[STEPS], seconds[OTHER]) == (2, 1)
    with phase(STEPS):
        clock(5)
    assert seconds[STEPS] == 2


def test_an_inner_measurement_is_its_own(clock):
    with measured() as outer, phase(STEPS):
        clock(1)
        with measured() as inner, phase(READING):
            clock(2)
    assert (inner[READING], inner[STEPS], outer[STEPS], outer[READING]) == (2, 0, 3, 0)


@pytest.mark.parametrize("selection", ["last", "reservoir"])
def test_the_phases_of_a_run_add_up(selection):
    features, cell = make_features(), make_cell("er", "sharc", selection=selection)
    began = time.perf_counter()
    with measured() as seconds:
        document = run_cell(features, cell)
    elapsed = time.perf_counter() - began
    assert sum(seconds.values()) == pytest.approx(elapsed, rel=0.05)
    assert all(seconds[name] > 0 for name in (SALIENCY, WRITING, READING, STEPS, TESTING))
    assert document["matrix"] == run_cell(features, cell)["matrix"]
    with measured() as plain:
        run_cell(features, make_cell("er", selection=selection))
    assert plain[SALIENCY] == plain[WRITING] == plain[READING] == 0 < plain[STEPS]
