"""The worker, whole."""

from umbel.worker.controller import WorkController

__all__ = ("WorkController",)

SHUTDOWN_SOCKET_TIMEOUT = 5.0
