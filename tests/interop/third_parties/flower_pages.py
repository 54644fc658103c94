"""Flower: its command is there, and its application can be made."""

import json

from celery import Celery
from celery.bin.celery import celery as command
from flower.app import Flower
from flower.events import EventsState
from tornado.options import options

app = Celery("pages", broker="memory://", backend="cache+memory://")
flower = Flower(capp=app, options=options)
state = EventsState()
state.event(
    {
        "type": "worker-online",
        "hostname": "w@h",
        "timestamp": 1.0,
        "local_received": 1.0,
        "clock": 1,
        "pid": 1,
    }
)
import click  # noqa: E402 - a library of both

found = command.get_command(click.Context(command), "flower")
print(json.dumps({"command": found is not None, "workers": sorted(state.workers)}))
