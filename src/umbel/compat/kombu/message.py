"""A message that was taken."""

from umbel.client.connection import Message

__all__ = ("Message",)
