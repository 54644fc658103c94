"""The message: an immutable request for one run of one task, before it is written for the wire.

Its headers and properties are plain dictionaries in protocol 2's own names and order, because Celery's
``before_task_publish`` hands these very objects to its receivers, who may change them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import msgspec

from umbel.core.json_types import loads_json
from umbel.errors import DecodeError


class Tail:
    """The steps of a chain that are still to come, the last first, as text that is passed on without being read.

    Every step's message carries all that follow it. Read and written anew at each step they would cost a chain the
    square of its length.

    Args:
        texts: each step's signature as JSON.
    """

    __slots__ = ("texts",)

    def __init__(self, texts: list[msgspec.Raw]) -> None:
        self.texts = texts

    def steps(self) -> list[Mapping[str, Any]]:
        """All of them, read. Raises DecodeError."""
        steps = [loads_json(bytes(text)) for text in self.texts]
        for step in steps:
            if not isinstance(step, dict):
                raise DecodeError(f"a chain must be made of signatures, not {type(step).__name__}")
        return steps

    def split(self) -> tuple[Mapping[str, Any], Tail]:
        """The step that is next, read, and those after it. Raises DecodeError."""
        return loads_json(bytes(self.texts[-1])), Tail(self.texts[:-1])

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"<Tail: {len(self.texts)} steps>"


class Embed(TypedDict):
    """The third part of a protocol 2 body: what follows the task. Signatures are in their JSON form."""

    callbacks: list[Mapping[str, Any]] | None
    errbacks: list[Mapping[str, Any]] | None
    chain: list[Mapping[str, Any]] | None
    chord: Mapping[str, Any] | None


class TaskMessage(msgspec.Struct):
    """A request to run a task once: protocol 2's headers and properties, and the decoded body.

    ``tail`` takes the place of ``embed["chain"]``, where that has not been read.
    """

    headers: dict[str, Any]
    properties: dict[str, Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    embed: Embed
    tail: Tail | None = None

    @property
    def id(self) -> str:
        """The task id."""
        task_id: str = self.headers["id"]
        return task_id


class Call(msgspec.Struct):
    """Everything a caller said about one run, normalized: instants are aware, ids are set, limits are seconds.

    ``custom_headers`` join the protocol's headers at the top level, as in Celery; ``extra_properties`` are unknown
    options of ``apply_async``, which Celery adds to the message's properties.
    """

    task: str
    id: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    eta: str | None = None  #: ISO 8601, aware
    expires: str | None = None  #: ISO 8601, aware
    expiration: float | None = None  #: seconds from now until ``expires``
    retries: int = 0
    time_limit: float | None = None
    soft_time_limit: float | None = None
    root_id: str | None = None  #: None: the task's own id
    parent_id: str | None = None
    group_id: str | None = None
    group_index: int | None = None
    shadow: str | None = None
    argsrepr: str | None = None  #: None: made from ``args``
    kwargsrepr: str | None = None
    origin: str = ""
    ignore_result: bool = False
    replaced_task_nesting: int = 0
    stamped_headers: Sequence[str] | None = None
    stamps: Mapping[str, Any] = {}
    reply_to: str = ""
    priority: int = 0
    delivery_mode: int = 2
    callbacks: list[Mapping[str, Any]] | None = None
    errbacks: list[Mapping[str, Any]] | None = None
    chain: list[Mapping[str, Any]] | Tail | None = None
    chord: Mapping[str, Any] | None = None
    custom_headers: Mapping[str, Any] | None = None
    extra_properties: Mapping[str, Any] | None = None
