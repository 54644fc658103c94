"""Where a workflow puts the tasks it starts with: the one way in which programs, tasks and links send workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from umbel.core.json_types import dumps_compact
from umbel.errors import EncodeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from umbel.canvas.signature import Signature

__all__ = ["Carried", "Opening", "Outbox", "plain"]


class Opening(NamedTuple):
    """A chord whose parts are about to be sent.

    ``size`` is how many tasks will end as its parts, ``results`` are their handles, and ``interval``, ``countdown`` and
    ``max_retries`` are for backends that have to look again and again (seconds).
    """

    group_id: str
    size: int
    body: Signature
    results: list[Any]
    interval: float | None = None
    countdown: float = 1
    max_retries: int | None = None


class Outbox(Protocol):
    """Takes single tasks that are to be sent, in order, and chords that are to be opened before their parts go out."""

    def send(
        self, signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Any:
        """Take one task, complete with its options; gives the handle of its result."""

    def open_chord(self, opening: Opening) -> None:
        """Have the chord's parts counted. Called before the last of them is taken."""

    def hasten(self) -> None:
        """Have the next task go out as soon as it is taken: those that follow it are still to be made."""

    def remember(self, result: Any) -> None:
        """Note the result of a group among the children of the task that sends it, if one does."""


#: Bytes of JSON from which on what follows is compressed in the messages that carry it.
_HEAVY = 1024

#: Options that hold signatures.
_LINKS = ("link", "link_error", "chain", "chord")


class Carried:
    """Makes ready what the messages of one sending carry along, once for all of them."""

    def __init__(self) -> None:
        # With the signature itself: its id stays its own while it is kept.
        self._known: dict[int, tuple[Any, Any]] = {}
        self._heavy: dict[int, tuple[Any, bool]] = {}

    def options(self, options: Mapping[str, Any], compression: Any = None) -> dict[str, Any]:
        """The options of one message, signatures in their plain form.

        Compressed, where it carries much: a chord's body, with all that follows it, is in every part's message, as
        Celery has it, and the groups and chords further on in a chain are in that of each step before them.
        ``compression`` is what is used without an option of that name.
        """
        ready = dict(options)
        for name in _LINKS:
            if ready.get(name):
                ready[name] = self._plain(ready[name])
        if not (ready.get("compression") or compression) and (
            self._is_heavy(options.get("chord"), ready.get("chord"))
            or (_has_workflows(ready.get("chain")) and self._is_heavy(options["chain"], ready["chain"]))
        ):
            ready["compression"] = "zlib"
        return ready

    def _plain(self, links: Any) -> Any:
        if isinstance(links, (list, tuple)):
            return [self._plain(link) for link in links]
        # A mapping that came off the wire is one of mappings, to any depth.
        return links if type(links) is dict else plain(links, self._known)

    def _is_heavy(self, carried: Any, form: Any) -> bool:
        if not carried:
            return False
        known = self._heavy.get(id(carried))
        if known is None:
            known = self._heavy[id(carried)] = carried, _weighs_much(form)
        return known[1]


def _has_workflows(chain: Any) -> bool:
    """Whether more than single tasks follow. Those stay as they are: each step passes them on as they came."""
    return type(chain) is list and any(step.get("subtask_type") for step in chain)


def _weighs_much(form: Any) -> bool:
    try:
        return len(dumps_compact(form)) > _HEAVY
    except EncodeError:
        # Another serializer's business, which may have ways of its own.
        return False


def plain(value: Any, known: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """Signatures as ordinary mappings and lists, to any depth: what is written in a fraction of the time.

    ``known`` keeps what was made of each signature, for those that many messages carry.
    """
    if isinstance(value, (list, tuple)):
        members = [plain(member, known) for member in value]
        return tuple(members) if type(value) is tuple else members
    if not isinstance(value, dict):
        return value
    if known is not None and id(value) in known:
        return known[id(value)][1]
    made = {key: plain(member, known) for key, member in value.items()}
    if known is not None and type(value) is not dict:
        known[id(value)] = value, made
    return made
