"""A program that uses an application: a producer and reader of results, run by either library's interpreter.

Run as ``python side.py SOCKET``; it answers requests ``(function, arguments, keywords)`` over the socket until that
is closed.
"""

from __future__ import annotations

import sys
import traceback
from multiprocessing.connection import Listener

import shared
from shared import app


def send(name, *args, **options):
    """Send a task by its name; its id."""
    return app.send_task(name, args, **options).id


def delay(name, *args, **options):
    """Send a task as a known one, through its ``apply_async``."""
    return app.tasks[name].apply_async(args, **options).id


def burst(name, count, *args, **options):
    """Send a task many times."""
    task = app.tasks[name]
    return [task.apply_async(args, **options).id for _ in range(count)]


def outcome(task_id, timeout=20):
    """Wait for a result, and tell all that the handle says of it."""
    handle = app.AsyncResult(task_id)
    value = handle.get(timeout=timeout, propagate=False)
    return {
        "state": handle.state,
        "value": None if isinstance(value, BaseException) else value,
        "error": _error(value),
        "traceback": handle.traceback,
        "children": [child.id for child in handle.children or ()],
        **{name: getattr(handle, name) for name in ("name", "args", "kwargs", "worker", "retries", "queue")},
    }


def _error(value):
    if not isinstance(value, BaseException):
        return None
    kind = type(value)
    return {
        "type": kind.__qualname__,
        "module": kind.__module__,
        "bases": [base.__name__ for base in kind.__mro__],
        "args": tuple(
            each if isinstance(each, (str, int, float, dict)) else repr(each) for each in value.args
        ),
        "text": str(value),
    }


def state(task_id):
    """The state at this moment, and what is known of it."""
    handle = app.AsyncResult(task_id)
    return handle.state, _error(handle.info) or handle.info


def evaluate(source, names):
    """The value of an expression, with the application, its module and some names."""
    return eval(source, {"app": app, "shared": shared, **names})


def execute(source, names):
    """Run statements; the value of ``answer`` afterwards."""
    scope = {"app": app, "shared": shared, **names}
    exec(source, scope)
    return scope.get("answer")


def main(address):
    with Listener(address, "AF_UNIX") as listener:
        print("side listens", flush=True)
        with listener.accept() as connection:
            while True:
                try:
                    name, args, kwargs = connection.recv()
                except EOFError:
                    return
                try:
                    connection.send((True, globals()[name](*args, **kwargs)))
                except Exception:
                    connection.send((False, traceback.format_exc()))


if __name__ == "__main__":
    main(sys.argv[1])
