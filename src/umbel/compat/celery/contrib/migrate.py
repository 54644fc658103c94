"""Moving messages between queues and brokers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from umbel.client.moving import (
    State,
    StopFiltering,
    migrate_task,
    migrate_tasks,
    move,
    prepare_queues,
    republish,
    start_filter,
)

from ..utils.nodenames import worker_direct

__all__ = (
    "State",
    "StopFiltering",
    "migrate_task",
    "migrate_tasks",
    "move",
    "move_by_idmap",
    "move_by_taskmap",
    "move_direct",
    "move_direct_by_id",
    "move_task_by_id",
    "prepare_queues",
    "republish",
    "start_filter",
    "task_id_eq",
    "task_id_in",
)

MOVING_PROGRESS_FMT = "Moving task {state.filtered}/{state.strtotal}: {body[task]}[{body[id]}]"


def task_id_eq(task_id: str, body: Any, message: Any) -> bool:
    """Whether a message is the task of this id."""
    return bool(body["id"] == task_id)


def task_id_in(ids: Any, body: Any, message: Any) -> bool:
    """Whether a message is a task of one of these ids."""
    return body["id"] in ids


def move_task_by_id(task_id: str, dest: Any, **kwargs: Any) -> State:
    """Move the task of this id to another queue; the keywords are those of ``move``."""
    return move_by_idmap({task_id: dest}, **kwargs)


def move_by_idmap(map: Mapping[str, Any], **kwargs: Any) -> State:
    """Move tasks by their ids: ``{task id: queue}``. It ends when it has found them all."""

    def queue_of(body: Any, message: Any) -> Any:
        return map.get(message.properties.get("correlation_id") or message.headers.get("id"))

    return move(queue_of, limit=len(map), **kwargs)


def move_by_taskmap(map: Mapping[str, Any], **kwargs: Any) -> State:
    """Move tasks by their names: ``{task name: queue}``."""

    def queue_of(body: Any, message: Any) -> Any:
        return map.get(body["task"])

    return move(queue_of, **kwargs)


def filter_callback(callback: Any, tasks: Any) -> Any:
    """A callback that is called for these tasks only."""

    def filtered(state: State, body: Any, message: Any) -> Any:
        return callback(state, body, message) if not tasks or body["task"] in tasks else None

    return filtered


def filter_status(state: State, body: Any, message: Any, **kwargs: Any) -> None:
    """Print how far it has come: a callback for ``move``."""
    print(MOVING_PROGRESS_FMT.format(state=state, body=body, **kwargs))  # noqa: T201 - that is what it is for


def expand_dest(ret: Any, exchange: Any, routing_key: Any) -> Any:
    """Where to: what a predicate has answered, or what was given."""
    return ret if isinstance(ret, (tuple, list)) and len(ret) == 2 else (exchange, routing_key)


#: The same to the queue that one worker has for itself (``worker_direct``), of which the node's name is given.
move_direct = partial(move, transform=worker_direct)
move_direct_by_id = partial(move_task_by_id, transform=worker_direct)
move_direct_by_idmap = partial(move_by_idmap, transform=worker_direct)
move_direct_by_taskmap = partial(move_by_taskmap, transform=worker_direct)
