"""Sending and taking messages."""

from umbel.client.connection import Consumer, Producer
from umbel.core.queues import Exchange, Queue

__all__ = ("Consumer", "Exchange", "Producer", "Queue")
