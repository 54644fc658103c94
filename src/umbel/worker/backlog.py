"""The events that wait to be sent: so many and so much text, no more; the newest are kept, and the others counted."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from umbel.core.events import group_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Backlog"]

#: Events that wait at the most, and those in one message.
_ROOM: Final = 10_000
_BATCH: Final = 500
#: Characters of text in them, for a traceback may hold anything; a broker refuses messages of many megabytes.
_TEXT_ROOM: Final = 32 * 2**20
_TEXT_BATCH: Final = 2**20
#: Of a longer text in an event that has more than a batch should, only the beginning and the end are kept.
_TEXT_FIELD: Final = 2**16


class Backlog:
    """A queue of events that forgets the oldest when there is no room."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque()
        self._text = 0
        #: How many were forgotten so far.
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: dict[str, Any]) -> None:
        """Put an event at the end."""
        text = _text_of(event)
        if text > _TEXT_BATCH:
            event = {name: _shortened(value) for name, value in event.items()}
            text = _text_of(event)
        self._text += text
        self._events.append(event)
        self._forget()

    def take(self) -> list[dict[str, Any]]:
        """The events of the next message: those of tasks together, others alone. There must be one."""
        batch = [first := self._take_one()]
        text = _text_of(first)
        while group_of(first["type"]) == "task" and self._events and len(batch) < _BATCH:
            following = self._events[0]
            text += _text_of(following)
            if group_of(following["type"]) != "task" or text > _TEXT_BATCH:
                break
            batch.append(self._take_one())
        return batch

    def give_back(self, batch: Sequence[dict[str, Any]]) -> None:
        """Put events at the beginning again that were not sent, as far as there is room."""
        self._events.extendleft(reversed(batch))
        self._text += sum(map(_text_of, batch))
        self._forget()

    def _take_one(self) -> dict[str, Any]:
        event = self._events.popleft()
        self._text -= _text_of(event)
        return event

    def _forget(self) -> None:
        while len(self._events) > _ROOM or self._text > _TEXT_ROOM:
            self._take_one()
            self.dropped += 1


def _text_of(event: dict[str, Any]) -> int:
    """How many characters an event has."""
    return sum([len(value) for value in event.values() if type(value) is str])


def _shortened(value: Any) -> Any:
    if type(value) is not str or len(value) <= _TEXT_FIELD:
        return value
    half = _TEXT_FIELD // 2
    return f"{value[:half]}\n… {len(value) - 2 * half} characters …\n{value[-half:]}"
