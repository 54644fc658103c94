"""Any nesting of chains, groups and chords does what a few lines of plain Python say, in place and on a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from umbel import Umbel, chain, chord, group
from umbel.canvas import _chain


@dataclass(frozen=True)
class Step:
    """One task, which gives its tag and what it was given."""

    tag: int


@dataclass(frozen=True)
class Chain:
    steps: tuple[Any, ...]
    written: bool  #: kept as it is written, not folded by ``|``


@dataclass(frozen=True)
class Group:
    members: tuple[Any, ...]


@dataclass(frozen=True)
class Chord:
    header: tuple[Any, ...]
    body: Any


def expected(node: Any, given: Any) -> Any:
    """What a workflow gives."""
    match node:
        case Step(tag):
            return [tag, given]
        case Chain(steps):
            for step in steps:
                given = expected(step, given)
            return given
        case Group(members):
            return [expected(member, given) for member in flat(members)]
        case Chord(header, body):
            return expected(body, [expected(member, given) for member in flat(header)])
    raise AssertionError(node)


def flat(members: tuple[Any, ...]) -> Iterator[Any]:
    """Groups within a group are part of it."""
    for member in members:
        if isinstance(member, Group):
            yield from flat(member.members)
        else:
            yield member


def tasks_in(node: Any) -> int:
    """How many tasks a workflow has."""
    match node:
        case Chain(steps):
            return sum(map(tasks_in, steps))
        case Group(members):
            return sum(map(tasks_in, members))
        case Chord(header, body):
            return sum(map(tasks_in, header)) + tasks_in(body)
    return 1


def several(nodes: st.SearchStrategy[Any], least: int = 1) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(nodes, min_size=least, max_size=3).map(tuple)


steps = st.integers(0, 9).map(Step)
workflows = st.recursive(
    steps,
    # Groups of one stand for their task in some places and not in others: that is for examples to tell.
    lambda inner: (
        st.builds(Chain, several(inner), st.booleans())
        | st.builds(Group, several(inner, least=2))
        | st.builds(Chord, several(inner), inner)
    ),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def app() -> Iterator[Umbel]:
    with Umbel("model", broker="memory://", backend="memory://", set_as_current=False) as made:

        @made.task(name="model.tag")
        def tag(value: Any = None, tag: int = 0) -> list[Any]:
            return [tag, value]

        yield made


def signature_of(app: Umbel, node: Any) -> Any:
    match node:
        case Step(tag):
            return app.tasks["model.tag"].s(tag=tag)
        case Chain(steps, written):
            made = [signature_of(app, step) for step in steps]
            return _chain(*made) if written else chain(*made)
        case Group(members):
            return group([signature_of(app, member) for member in members])
        case Chord(header, body):
            return chord([signature_of(app, member) for member in header], signature_of(app, body))
    raise AssertionError(node)


quick = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@given(node=workflows)
@quick
def test_in_place(app: Umbel, node: Any) -> None:
    assert signature_of(app, node).apply((0,)).get() == expected(node, 0)


@given(node=workflows)
@quick
def test_its_mapping_does_the_same(app: Umbel, node: Any) -> None:
    again = app.signature(json.loads(json.dumps(signature_of(app, node))))
    assert again.apply((0,)).get() == expected(node, 0)


@given(node=workflows)
@quick
def test_freezing_gives_every_task_an_id_of_its_own_and_sending_keeps_it(app: Umbel, node: Any) -> None:
    signature = signature_of(app, node)
    frozen = signature.freeze()
    ids = list(ids_in(frozen.as_tuple()))
    assert len(ids) == len(set(ids))
    before = signature.clone()
    assert list(ids_in(signature.freeze().as_tuple())) == ids
    assert signature == before


def ids_in(stored: Any) -> Iterator[str]:
    """The ids in a result's tuple, of the results before it and within it."""
    (own, parent), members = stored
    yield own
    if parent:
        yield from ids_in(parent)
    for member in members or ():
        yield from ids_in(member)


@pytest.fixture(scope="module")
def working(app: Umbel) -> Iterator[Umbel]:
    with app.worker(pool="solo"):
        yield app


@given(node=workflows)
@quick
def test_on_a_worker(working: Umbel, node: Any) -> None:
    assert signature_of(working, node).apply_async((0,)).get(timeout=10) == expected(node, 0)
