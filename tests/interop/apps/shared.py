"""One application with the same tasks under Celery and under Umbel, whichever the interpreter has.

``BROKER`` and ``BACKEND`` are the addresses, ``SETTINGS`` more settings as JSON. What tasks tell of themselves goes to
lists and counters in the last database of the same Redis server.
"""

from __future__ import annotations

import json
import os
import sys
import time
import types

import redis

try:
    from celery import Celery
    from celery import exceptions as errors

    LIBRARY = "celery"
except ImportError:
    from umbel import Umbel as Celery
    from umbel import errors

    LIBRARY = "umbel"

NOTES = redis.Redis.from_url(os.environ["NOTES"])

app = Celery("shared", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(
    accept_content=["json", "msgpack", "yaml", "pickle"],
    task_default_queue="both",
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
)
app.conf.update(json.loads(os.environ.get("SETTINGS", "{}")))


class Unhappy(Exception):
    """An error that both sides know: both import this module by this name."""


#: An error whose module the other library's processes do not have.
OnlyHere = type("OnlyHere", (Exception,), {"__module__": f"{LIBRARY}_only"})
sys.modules[OnlyHere.__module__] = types.ModuleType(OnlyHere.__module__)
sys.modules[OnlyHere.__module__].OnlyHere = OnlyHere


def note(name, *words):
    """Tell the test something."""
    NOTES.rpush(name, json.dumps([LIBRARY, *words]))


@app.task(name="echo")
def echo(value):
    return value


@app.task(name="add")
def add(x, y):
    return x + y


@app.task(name="total")
def total(numbers):
    return sum(numbers)


@app.task(name="types")
def types_of(*args):
    return [type(value).__name__ for value in args]


@app.task(name="describe", bind=True)
def describe(self, *args, **kwargs):
    request = self.request
    return {
        "library": LIBRARY,
        "args": list(args),
        "kwargs": kwargs,
        "types": [type(value).__name__ for value in (*args, *kwargs.values())],
        "headers": request.headers,
        "id": request.id,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "retries": request.retries,
        "correlation_id": request.correlation_id,
        "timelimit": list(request.timelimit or [None, None]),
        "origin": request.origin,
        "ignore_result": request.ignore_result,
        "delivery_info": request.delivery_info,
        "argsrepr": getattr(request, "argsrepr", None),
        "kwargsrepr": getattr(request, "kwargsrepr", None),
        "stamps": request.stamps,
    }


@app.task(name="record", bind=True)
def record(self, name, *words):
    note(name, *words)
    return LIBRARY


@app.task(name="count", bind=True, ignore_result=True)
def count(self, name):
    """Say once more that this very job has run."""
    NOTES.hincrby(name, f"{self.request.id}", 1)
    NOTES.incr(f"{name}:{LIBRARY}")


@app.task(name="fail", bind=True)
def fail(self, kind):
    if kind == "value":
        raise ValueError("boom", 3)
    if kind == "key":
        raise KeyError("missing")
    if kind == "unicode":
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    if kind == "oserror":
        raise FileNotFoundError(2, "No such file or directory", "/nowhere")
    if kind == "shared":
        raise Unhappy("known to both", {"code": 7})
    if kind == "local":
        raise OnlyHere("from afar", 1)
    if kind == "unwritable":
        raise RuntimeError(object())
    if kind == "cause":
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    if kind == "reject":
        raise errors.Reject("no thanks", requeue=False)
    if kind == "ignore":
        raise errors.Ignore
    if kind == "memory":
        raise MemoryError
    if kind == "exit":
        sys.exit(3)
    raise getattr(errors, kind)("said by the task")


@app.task(name="soft", soft_time_limit=0.5)
def soft():
    time.sleep(20)


@app.task(name="hard", time_limit=0.5)
def hard():
    time.sleep(20)


@app.task(name="die")
def die():
    os.kill(os.getpid(), 9)


@app.task(name="persist", bind=True, max_retries=10)
def persist(self, name, times, countdown=0):
    """Ask for ``times`` retries, then succeed."""
    note(name, self.request.retries)
    if self.request.retries < times:
        raise self.retry(countdown=countdown)
    return self.request.retries


@app.task(name="give_up", bind=True, max_retries=2, default_retry_delay=0)
def give_up(self, name):
    note(name, self.request.retries)
    try:
        raise ValueError("still wrong")
    except ValueError as error:
        raise self.retry(exc=error) from error


@app.task(
    name="stubborn",
    bind=True,
    autoretry_for=(ConnectionError,),
    max_retries=1,
    retry_backoff=True,
    retry_jitter=False,
)
def stubborn(self, name, times):
    note(name, self.request.retries)
    if self.request.retries < times:
        raise ConnectionError("not yet")
    return self.request.retries


@app.task(name="report", bind=True)
def report(self, gate):
    self.update_state(state="PROGRESS", meta={"done": 40, "of": 100})
    NOTES.blpop(gate, timeout=60)
    return "done"


@app.task(name="hold", bind=True, track_started=True)
def hold(self, name, gate, seconds=0):
    """Say that it begins, wait for the gate or for a time, say that it ends."""
    note(name, "begins")
    if gate:
        NOTES.blpop(gate, timeout=60)
    time.sleep(seconds)
    note(name, "ends")
    return LIBRARY


@app.task(name="hold_late", bind=True, acks_late=True)
def hold_late(self, name, gate, seconds=0):
    note(name, "begins", bool((self.request.delivery_info or {}).get("redelivered")))
    if gate:
        NOTES.blpop(gate, timeout=60)
    time.sleep(seconds)
    note(name, "ends")
    return LIBRARY


@app.task(name="after_error")
def after_error(task_id):
    """An error callback of the old kind: it is sent as a task, with the id of what failed."""
    note(task_id, "after_error")


@app.task(name="on_the_spot")
def on_the_spot(request, error, traceback):
    """An error callback of the new kind: the worker whose task failed calls it."""
    note(request.id, type(error).__name__, str(error), str(traceback).splitlines()[-1])


@app.task(name="spawn", bind=True)
def spawn(self, queue):
    return app.send_task("describe", ["child"], queue=queue).id
