"""The names of Redis keys: kombu's layout, and what Umbel adds to it under ``umbel:``."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.core.bindings import Binding
from umbel.errors import ImproperlyConfigured
from umbel.stores.redis.address import warn_unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Options of kombu's transport that have nothing to do here, and are accepted in silence: what they tune (polling,
#: checks of its own connections, redelivery sweeps) works another way.
_WITHOUT_MEANING: Final = frozenset(
    {
        "ack_emulation",
        "body_encoding",
        "credential_provider",
        "deadletter_queue",
        "health_check_interval",
        "polling_interval",
        "reauth_check_interval",
        "retry_on_timeout",
        "unacked_restore_interval",
        "unacked_restore_limit",
        "unacked_restore_throttle",
        # Celery merges its publish retry policy into the transport options.
        "errback",
        "interval_max",
        "interval_start",
        "interval_step",
        "max_retries",
    }
)


class Layout(msgspec.Struct, frozen=True):
    """kombu's transport options that name keys and channels or say how messages are ordered and kept."""

    global_keyprefix: str = ""
    sep: str = "\x06\x16"
    priority_steps: tuple[int, ...] = (0, 3, 6, 9)
    unacked_key: str = "unacked"
    unacked_index_key: str = "unacked_index"
    unacked_mutex_key: str = "unacked_mutex"
    unacked_mutex_expire: float = 300.0  #: seconds
    visibility_timeout: float = (
        3600.0  #: seconds after which Celery's workers may take a message from one another
    )
    fanout_prefix: bool | str = True
    fanout_patterns: bool = True
    queue_order_strategy: str = "round_robin"
    max_connections: int | None = None
    wait_for_replicas: int = (
        0  #: Umbel's: replicas that must have a message before its sender is told that it is sent
    )
    db: int = 0

    def key(self, name: str) -> bytes:
        """A key or channel with the prefix that everything has."""
        return (self.global_keyprefix + name).encode()

    def step_of(self, priority: int) -> int:
        """The priority step of a priority: the largest that is not above it; below the first step it is the last."""
        return self.priority_steps[bisect_right(self.priority_steps, min(max(priority, 0), 9)) - 1]

    def list_key(self, queue: str, step: int) -> bytes:
        """The list of a queue's messages of one priority step. The right end is next."""
        return self.key(f"{queue}{self.sep}{step}" if step else queue)

    def list_keys(self, queue: str) -> list[bytes]:
        """All lists of a queue, first priority first."""
        return [self.list_key(queue, step) for step in self.priority_steps]

    def delayed_key(self, queue: str) -> bytes:
        """Zset by due time of ``<step>:<unique>:<payload>``."""
        return self.key(f"umbel:delayed:{queue}")

    def dead_key(self, queue: str) -> bytes:
        """Zset by time of ``<unique>:<length>:<reason><payload>``; the reason is ``core.causes.write_cause``'s text."""
        return self.key(f"umbel:dead:{queue}")

    @property
    def dead_queues_key(self) -> bytes:
        """Set of the queues that have had dead letters."""
        return self.key("umbel:dead_queues")

    def begun_key(self, identity: str) -> bytes:
        """Set of the tags of redelivered messages on which a consumer has begun to work."""
        return self.key(f"umbel:begun:{identity}")

    def settled_key(self, identity: str) -> bytes:
        """Set of the names of what a consumer has settled and may not know of; see settle.lua."""
        return self.key(f"umbel:settled:{identity}")

    def held_key(self, identity: str) -> bytes:
        """hash: delivery tag to ``<position>:<trailer>:<list key>``, see fetch.lua."""
        return self.key(f"umbel:held:{identity}")

    @property
    def revoked_key(self) -> bytes:
        """Zset of the ids of revoked tasks, by the epoch second at which each is forgotten."""
        return self.key("umbel:revoked")

    @property
    def revoked_stamps_key(self) -> bytes:
        """Zset of revoked stamps (``core.stamps.write_stamps``), likewise."""
        return self.key("umbel:revoked_stamps")

    def binding_key(self, exchange: str) -> bytes:
        """Set of ``<routing key><sep><pattern><sep><queue>``."""
        return self.key(f"_kombu.binding.{exchange}")

    def permanent_binding_key(self, exchange: str) -> bytes:
        """Set that keeps kombu 5.7 from sweeping the binding table."""
        return self.key(f"_kombu.binding_permanent.{exchange}")

    def member(self, binding: Binding) -> bytes:
        """A binding as a member of its exchange's table."""
        return self.sep.join((binding.routing_key, binding.pattern, binding.queue)).encode()

    def read_member(self, exchange: str, member: bytes) -> Binding | None:
        """The binding that a member of an exchange's table stands for; None for what is none."""
        parts = member.decode("utf-8", "replace").split(self.sep)
        if len(parts) != 3:
            return None
        key, pattern, queue = parts
        return Binding(queue, exchange, "topic" if pattern else "direct", key)

    def fanout_channel(self, exchange: str, routing_key: str) -> bytes:
        """The channel of a fanout exchange."""
        prefix = self.fanout_prefix
        if not isinstance(prefix, str):
            prefix = "/{db}." if prefix else ""
        channel = prefix.replace("{db}", str(self.db)) + exchange
        return self.key(f"{channel}/{routing_key}" if routing_key and self.fanout_patterns else channel)


def make_layout(options: Mapping[str, Any], db: int) -> Layout:
    """A layout from transport options. Raises ImproperlyConfigured for bad values; unknown options warn once."""
    known = {name: options[name] for name in Layout.__struct_fields__ if name in options and name != "db"}
    if "priority_steps" in known:
        known["priority_steps"] = sorted(int(step) for step in known["priority_steps"])
    try:
        layout = msgspec.convert({**known, "db": db}, Layout, strict=False)
    except msgspec.ValidationError as error:
        raise ImproperlyConfigured(f"broker_transport_options for Redis: {error}") from error
    if not layout.priority_steps:
        raise ImproperlyConfigured("priority_steps must name at least one step, such as [0]")
    warn_unknown(tuple(sorted(set(options) - set(known) - _WITHOUT_MEANING)))
    return layout
