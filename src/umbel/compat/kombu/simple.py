"""Queues to put into and get from."""

from umbel.client.connection import SimpleQueue

__all__ = ("SimpleBuffer", "SimpleQueue")

SimpleBuffer = SimpleQueue
