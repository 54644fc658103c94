"""Real Celery's event receiver: prints every event as a line of JSON until it is killed."""

import json
import os

from celery import Celery

app = Celery("watch", broker=os.environ["BROKER"])


def tell(event):
    print("event", json.dumps(event), flush=True)


with app.connection() as connection:
    receiver = app.events.Receiver(connection, handlers={"*": tell})
    with receiver.consumer_context():
        print("watching", flush=True)
    receiver.capture(limit=None, timeout=None, wakeup=True)
