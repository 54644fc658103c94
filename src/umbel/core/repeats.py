"""Messages that may have been sent before, under the same id.

Where the broker and the results are two stores, or the broker publishes in one step and acknowledges in the next, a
fault between the two has what follows sent again. The broker takes it for new; so whoever sends what may be a
repetition says so, for ``worker_deduplicate_successful_tasks``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from umbel.core.protocol import repack
from umbel.core.records import Publication
from umbel.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["REPEATED", "mark_repeated", "repeated"]

#: The header that says so; what follows from such a message has it too.
REPEATED: Final = "umbel-repeated"


def mark_repeated(payload: bytes) -> bytes:
    """The payload with the mark; what is no message stays as it is."""
    try:
        return repack(payload, headers={REPEATED: True})
    except DecodeError:
        return payload


def repeated(publications: Iterable[Publication]) -> list[Publication]:
    """Publications whose payloads have the mark."""
    return [
        Publication(publication.destination, mark_repeated(publication.payload))
        for publication in publications
    ]
