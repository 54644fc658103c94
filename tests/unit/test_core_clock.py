"""A clock that steps of the machine's do not move at once."""

from __future__ import annotations

import pytest

from umbel.core.clock import FOLLOW_AFTER, Anchor, BrokerClock, SteadyClock, look
from umbel.testing.contracts.support import ShiftedClock

HOUR = 3600.0
START = Anchor(1000.0, 1000.0)


def test_the_first_look_takes_the_machines_time() -> None:
    assert look(None, 1000.0, 5.0) == START


def test_what_is_slewed_is_followed() -> None:
    assert look(START, 1000.01, 5.0) is START
    assert look(START, 1000.5, 5.0) == Anchor(1000.5, 1000.5)


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 2.0])
def test_a_step_is_followed_when_it_has_lasted(jump: float) -> None:
    stepped = look(START, 1000.0 + jump, 10.0)
    assert stepped.ahead == 1000.0
    assert look(stepped, 1000.0 + jump, 10.0 + FOLLOW_AFTER - 1).ahead == 1000.0
    assert look(stepped, 1000.0 + jump, 10.0 + FOLLOW_AFTER) == Anchor(1000.0 + jump, 1000.0 + jump)


def test_a_step_and_back_changes_nothing() -> None:
    stepped = look(START, 1000.0 + HOUR, 10.0)
    assert look(stepped, 1000.0, 20.0) == START


def test_each_step_has_to_last_by_itself() -> None:
    stepped = look(START, 1000.0 + HOUR, 10.0)
    other = look(stepped, 1000.0 - HOUR, 10.0 + FOLLOW_AFTER)
    assert other == Anchor(1000.0, 1000.0 - HOUR, 10.0 + FOLLOW_AFTER)


def test_a_steady_clock_goes_on_through_a_jump() -> None:
    machine = ShiftedClock()
    clock = SteadyClock(machine)
    clock.look()
    machine.shift += HOUR
    assert clock.now() == pytest.approx(machine.now() - HOUR, abs=1)
    clock.look()
    assert clock.now() == pytest.approx(machine.now() - HOUR, abs=1)


def test_nobody_has_told_the_time_yet() -> None:
    machine = ShiftedClock()
    clock = BrokerClock(machine)
    machine.shift += HOUR
    assert clock.now() == pytest.approx(machine.now(), abs=1)
    clock.tell(500.0)
    machine.shift += HOUR
    assert clock.now() == pytest.approx(500.0, abs=1)
