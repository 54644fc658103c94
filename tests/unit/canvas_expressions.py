"""Expressions of workflows, whose mappings are compared with those of Celery 5.7.

``test_canvas_celery_5_7.json`` has what real Celery makes of each: its class, and its mapping as JSON. It was written
by running this file with Celery instead of Umbel: every name that it uses is Celery's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def linked(signature: Any, callback: Any = None, errback: Any = None) -> Any:
    """The signature, with these linked to it."""
    if callback is not None:
        signature.link(callback)
    if errback is not None:
        signature.link_error(errback)
    return signature


def stamped(signature: Any, **stamps: Any) -> Any:
    """The signature, stamped."""
    signature.stamp(**stamps)
    return signature


def expressions(library: Any, add: Any, tsum: Any, on_error: Any) -> dict[str, Callable[[], Any]]:
    """Each expression by its text. ``library`` is the package, the tasks are ``t.add``, ``t.tsum``, ``t.on_error``."""
    chain, group, chord, signature = library.chain, library.group, library.chord, library.signature
    a = add.s
    return {
        "s": lambda: a(1, y=2).set(countdown=3, queue="q"),
        "si": lambda: add.si(1),
        "on_error": lambda: a(1).on_error(on_error.s()),
        "clone": lambda: a(1).clone((5,), {"y": 1}, queue="q"),
        "chain": lambda: chain(a(1), a(2), a(3)),
        "chain of one": lambda: chain(a(1)),
        "chain of a list": lambda: chain([a(1), a(2)]),
        "chain of a generator": lambda: chain(a(i) for i in range(3)),
        "chain of nothing": chain,
        "chain with options": lambda: chain(a(1), a(2), queue="x"),
        "chain of chains": lambda: chain(chain(a(1), a(2)), chain(a(3), chain(a(4), a(5)))),
        "chain with an empty group": lambda: chain(a(1), group(), a(2)),
        "chain of three groups": lambda: chain(group(a(1), a(2)), group(a(3), a(4)), group(a(5), a(6))),
        "chain of groups and a task": lambda: chain(a(0), group(a(1), a(2)), group(a(3), a(4)), tsum.s()),
        "a | b": lambda: a(1) | a(2),
        "a | (b | c)": lambda: a(1) | (a(2) | a(3)),
        "chain | chain": lambda: chain(a(1), a(2)) | chain(a(3), a(4)),
        "chain | group": lambda: chain(a(1), a(2)) | group(a(3), a(4)),
        "chain | chord": lambda: chain(a(1), a(2)) | chord([a(3)], tsum.s()),
        "linked chain | a": lambda: linked(chain(a(1), a(2)), a(9), on_error.s()) | a(3),
        "group": lambda: group(a(1), a(2)),
        "group of a list": lambda: group([a(1), a(2)]),
        "group of a generator": lambda: group(a(i) for i in range(3)),
        "group of one": lambda: group(a(1)),
        "group of nothing": group,
        "group with options": lambda: group([a(1)], countdown=3),
        "group of a group": lambda: group(group(a(1), a(2)), a(3)),
        "linked group": lambda: linked(group(a(1), a(2)), a(9), on_error.s()),
        "group | a": lambda: group(a(1), a(2)) | tsum.s(),
        "group | a | b": lambda: group(a(1), a(2)) | tsum.s() | a(1),
        "group | a | group": lambda: group(a(1), a(2)) | tsum.s() | group(a(1), a(2)),
        "group | group": lambda: group(a(1), a(2)) | group(a(3), a(4)),
        "group | group | a": lambda: group(a(1), a(2)) | group(a(3), a(4)) | tsum.s(),
        "group | group of one": lambda: group(a(1), a(2)) | group(a(3)),
        "group of one | a": lambda: group(a(1)) | tsum.s(),
        "group | empty group": lambda: group(a(1), a(2)) | group(),
        "empty group | a": lambda: group() | a(1),
        "a | group": lambda: a(1) | group(a(1), a(2)),
        "a | group of one": lambda: a(1) | group(a(1)),
        "a | group | b": lambda: a(1) | group(a(1), a(2)) | tsum.s(),
        "a | group | b | c": lambda: a(1) | group(a(1), a(2)) | tsum.s() | a(2),
        "a | group | group | b": lambda: a(1) | group(a(1), a(2)) | group(a(3), a(4)) | tsum.s(),
        "chord": lambda: chord([a(1), a(2)], tsum.s()),
        "chord of a group": lambda: chord(group(a(1), a(2)), tsum.s()),
        "chord without body": lambda: chord([a(1)]),
        "chord with options": lambda: chord([a(1)], tsum.s(), queue="x"),
        "chord of nothing": lambda: chord([], tsum.s()),
        "linked chord": lambda: linked(chord([a(1)], tsum.s()), a(9)),
        "chord | a": lambda: chord([a(2)], tsum.s()) | a(3),
        "chord | a | b": lambda: chord([a(2)], tsum.s()) | a(3) | a(4),
        "chord | group": lambda: chord([a(2)], tsum.s()) | group(a(3), a(4)),
        "chord | group of one": lambda: chord([a(2)], tsum.s()) | group(a(3)),
        "chord | chord": lambda: chord([a(2)], tsum.s()) | chord([a(3)], tsum.s()),
        "chord | chain": lambda: chord([a(2)], tsum.s()) | chain(a(3), a(4)),
        "a | chord": lambda: a(1) | chord([a(2)], tsum.s()),
        "a | chord | b": lambda: a(1) | chord([a(2)], tsum.s()) | a(3),
        "chunks": lambda: add.chunks([(1,), (2,), (3,)], 2),
        "chunks as a group": lambda: add.chunks([(1,), (2,), (3,)], 2).group(),
        "map": lambda: add.map([1, 2]),
        "starmap": lambda: add.starmap([(1, 2)]),
        "skew": lambda: group(a(1), a(2), a(3)).skew(1, 10, 2),
        "stamps": lambda: stamped(chain(a(1), group(a(2), a(3)), tsum.s()), colour="red"),
        "stamps that are there": lambda: stamped(stamped(a(1), colour="red"), colour="blue"),
        "appended stamps": lambda: stamped(stamped(a(1), colour="red"), append_stamps=True, colour="blue"),
        "there and back": lambda: signature(json.loads(json.dumps(chain(a(1), group(a(2), a(3)), tsum.s())))),
    }


def form_of(signature: Any) -> list[Any]:
    """Its class, and its mapping as JSON reads it."""
    return [type(signature).__name__, json.loads(json.dumps(_written(signature), sort_keys=True))]


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _written(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(member) for member in value]
    return sorted(value) if isinstance(value, set) else value


if __name__ == "__main__":
    import importlib
    import sys

    library = importlib.import_module(sys.argv[1])
    app = library.Celery("t", broker="memory://", backend="cache+memory://")

    def nothing(*args: Any) -> None:
        """What the tasks do is of no interest here."""

    tasks = [app.task(name=f"t.{name}")(nothing) for name in ("add", "tsum", "on_error")]
    made = {text: form_of(build()) for text, build in expressions(library, *tasks).items()}
    print(
        "{\n" + ",\n".join(f"{json.dumps(text)}: {json.dumps(form)}" for text, form in made.items()) + "\n}"
    )
