"""Opening a chord: its parts are about to be sent, and somebody has to count them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from umbel.canvas.signature import Signature
from umbel.execution.ids import derived_id

if TYPE_CHECKING:
    from umbel.canvas.outbox import Opening, Outbox

__all__ = ["open_chord", "open_chord_later"]

#: Options of a chord's body that the task has which waits for its header: it goes the same way.
_WAY = ("queue", "exchange", "exchange_type", "routing_key", "priority")


def open_chord(app: Any, opening: Opening) -> None:
    """Have the parts of a chord counted by the result backend, or by a task that looks at them again and again.

    Raises NotImplementedError where no result can be waited for.
    """
    counted = {
        "interval": opening.interval,
        "countdown": opening.countdown,
        "max_retries": opening.max_retries,
    }
    backend = app.backend
    # A backend that was written for Celery may count in a way of its own, which nothing here would call again.
    begin = backend.apply_chord if backend.native_chords else backend.prepare_chord
    begin((opening.group_id, opening.results), opening.body, **counted)
    backend.set_chord_size(opening.group_id, opening.size)


def open_chord_later(app: Any, opening: Opening, outbox: Outbox) -> None:
    """As ``open_chord``, but where nobody counts the parts, the task that looks at them goes out with them.

    So it is sent once, however often what comes before the chord is attempted.
    """
    backend: Any = app.backend
    backend.ensure_chords_allowed()
    if backend.native_chords:
        open_chord(app, opening)
    else:
        _send_unlock(app, opening, outbox)


def _send_unlock(app: Any, opening: Opening, outbox: Outbox) -> None:
    body = opening.body
    kwargs: dict[str, Any] = {"result": [result.as_tuple() for result in opening.results]}
    if opening.interval is not None:
        kwargs["interval"] = opening.interval
    if opening.max_retries is not None:
        kwargs["max_retries"] = opening.max_retries
    stamped = body.options.get("stamped_headers") or ()
    way = {
        name: body.options[name]
        for name in _WAY
        if name not in stamped and body.options.get(name) is not None
    }
    if "queue" not in way and "routing_key" not in way:
        way["route_name"] = body.task
    unlock = Signature("celery.chord_unlock", (opening.group_id, body), kwargs, app=app)
    # The same whenever what comes before the chord is attempted again: one look at the header will do.
    way["task_id"] = derived_id(opening.group_id, "unlock")
    outbox.send(unlock, unlock.args, kwargs, {**way, "countdown": opening.countdown, "add_to_parent": False})
