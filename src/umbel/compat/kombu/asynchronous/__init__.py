"""The event loop of kombu; Umbel's worker runs on asyncio."""

from umbel.compat.lazily import lazily as _lazily

READ, WRITE, ERR = 1, 4, 24

__all__ = ("ERR", "READ", "WRITE", "Hub", "get_event_loop", "set_event_loop")

__getattr__ = _lazily(
    __name__, {name: f"kombu.asynchronous.hub:{name}" for name in ("Hub", "get_event_loop", "set_event_loop")}
)
