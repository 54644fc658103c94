"""Sending: from the options of a call to a payload on the broker. ``Client.publish`` is the only sender."""

from umbel.client.calls import CallFactory, PublishDefaults
from umbel.client.client import Client, PublishOptions, Work

__all__ = ["CallFactory", "Client", "PublishDefaults", "PublishOptions", "Work"]
