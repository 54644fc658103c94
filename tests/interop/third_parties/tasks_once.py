"""celery-once and celery-singleton: a task that is on its way already is not sent again; both keep locks in Redis."""

import json
import os

from celery import Celery
from celery_once import AlreadyQueued, QueueOnce
from celery_singleton import Singleton

url = os.environ["REDIS_URL"]
app = Celery("once", broker=url, backend=url)
app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": {"url": url, "default_timeout": 60}}
app.conf.singleton_backend_url = url


@app.task(base=QueueOnce, name="once.add")
def add(x, y):
    return x + y


@app.task(base=Singleton, name="once.multiply")
def multiply(x, y):
    return x * y


def refused():
    try:
        add.delay(1, 2)
    except AlreadyQueued:
        return True
    return False


first = add.delay(1, 2)
again = refused()
one, two = multiply.delay(3, 4), multiply.delay(3, 4)
waiting = app.connection().default_channel.queue_declare("celery")[1]
with app.worker(pool="threads"):
    values = [first.get(timeout=20), one.get(timeout=20)]
    later = add.delay(1, 2).get(timeout=20)
    third = multiply.delay(3, 4)
    third.get(timeout=20)
print(
    json.dumps(
        {
            "refused": again,
            "same": one.id == two.id,
            "waiting": waiting,
            "values": values,
            "later": later,
            "new": third.id != one.id,
        }
    )
)
