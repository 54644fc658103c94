"""The task that shows that a worker answers."""

from umbel.testing.tasks import ping

__all__ = ("ping",)
