"""Workflows whose steps run at Celery's and at Umbel's workers by turns, sent by either library."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop.conftest import OTHER
from tests.interop.world import Side, World

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]

#: What every workflow is made with: ``s`` gives each signature to the other library's worker than the one before.
PREAMBLE = """
import itertools
from {library} import chain, chord, group
turn = itertools.cycle(queues)
def s(name, *args, **options):
    return app.signature(name, args=args, queue=next(turn), **options)
def add(*args): return s('add', *args)
def read(flow): return flow.apply_async().get(timeout=25)
"""

#: Shape → how it is made, and its value.
SHAPES = {
    "chain": ("chain(add(0, 1), *(add(1) for _ in range(9)))", 10),
    "group": ("group(add(n, n) for n in range(12))", [2 * n for n in range(12)]),
    "chord": ("chord([add(n, n) for n in range(12)], s('total'))", 132),
    "chord of one": ("chord([add(1, 2)], s('total'))", 3),
    "chain into a chord": ("chain(add(1, 1), group(add(n) for n in range(6)), s('total'), add(100))", 127),
    "chord into a chain": ("chord([add(n, 1) for n in range(5)], chain(s('total'), add(1), add(1)))", 17),
    "chains as parts": ("chord([chain(add(n, 1), add(10), add(100)) for n in range(4)], s('total'))", 450),
    "chord as a part": ("chord([chord([add(1, 1), add(2, 2)], s('total')), add(3, 3)], s('total'))", 12),
    "chord after chord": (
        "chain(group(add(1, 1), add(2, 2)), s('total'), group(add(1), add(2), add(3)), s('total'))",
        24,
    ),
    "group of chains": (
        "group(chain(add(n, 1), add(1), add(1)) for n in range(6))",
        [n + 3 for n in range(6)],
    ),
}


def workflow(side: Side, source: str, first: str, **names: Any) -> Any:
    """Run statements with the preamble; steps begin at that library's worker."""
    queues = [f"to_{first}", f"to_{OTHER[first]}"]
    return side.execute(PREAMBLE.format(library=side.library) + source, queues=queues, **names)


@pytest.mark.parametrize("first", ["celery", "umbel"], ids=["celery-first", "umbel-first"])
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_alternate(sender: Side, shape: str, first: str) -> None:
    source, value = SHAPES[shape]
    assert workflow(sender, f"answer = read({source})", first) == value


@pytest.mark.parametrize("first", ["celery", "umbel"], ids=["celery-first", "umbel-first"])
def test_every_other_step_ran_at_the_other_library(sender: Side, first: str, mark: str) -> None:
    ran = workflow(sender, "answer = read(group(s('record', mark, n) for n in range(6)))", first, mark=mark)
    assert ran == [first, OTHER[first]] * 3


@pytest.mark.parametrize("first", ["celery", "umbel"], ids=["celery-first", "umbel-first"])
def test_a_failed_part_fails_the_body_and_calls_its_error_callback(
    world: World, sender: Side, first: str, mark: str
) -> None:
    kind, state = workflow(
        sender,
        "flow = chord([add(1, 1), s('fail', 'value'), add(2, 2)], s('total'))\n"
        "flow.link_error(s('record', mark, 'called', immutable=True))\n"
        "result = flow.apply_async()\n"
        "answer = type(result.get(timeout=25, propagate=False)).__name__, result.state\n",
        first,
        mark=mark,
    )
    assert (kind, state) == ("ChordError", "FAILURE")
    assert world.wait_for_notes(mark, 1)[0][1] == "called"


def test_many_chords_at_once(sender: Side) -> None:
    """Parts of one chord are counted by both libraries' workers, each once."""
    source = (
        "flows = [chord([add(n, m) for n in range(10)], s('total')) for m in range(20)]\n"
        "results = [flow.apply_async() for flow in flows]\n"
        "answer = [result.get(timeout=25) for result in results]\n"
    )
    assert workflow(sender, source, "umbel") == [45 + 10 * m for m in range(20)]
