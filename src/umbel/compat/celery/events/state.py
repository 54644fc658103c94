"""What is known from events."""

from umbel.compat.lazily import lazily as _lazily

__all__ = (
    "State",
    "Task",
    "Worker",
    "heartbeat_expires",
)

__getattr__ = _lazily(
    __name__,
    {
        "State": "umbel.events.state:State",
        "Task": "umbel.events.members:Task",
        "Worker": "umbel.events.members:Worker",
        "heartbeat_expires": "umbel.events.members:heartbeat_expires",
    },
)
