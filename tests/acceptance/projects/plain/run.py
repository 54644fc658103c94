"""Use the project as a program does: ``run.py everything``, ``run.py send COUNT`` or ``run.py read ID…``."""

import json
import sys

from proj import tasks
from proj.celery import app


def everything():
    values = {name: flow.apply_async().get(timeout=30) for name, flow in tasks.workflows().items()}
    values["add"] = tasks.add.delay(2, 3).get(timeout=30)
    values["countdown"] = tasks.add.apply_async((2, 3), countdown=0.5).get(timeout=30)
    values["by name"] = app.send_task("proj.tasks.add", (5, 6)).get(timeout=30)
    values["retried"] = tasks.flaky.delay(2).get(timeout=30)
    values["replaced"] = tasks.fan_out.delay(4).get(timeout=30)
    values["limited"] = tasks.patient.delay().get(timeout=30)
    values["routed"] = tasks.report.delay().get(timeout=30)
    failed = tasks.divide.delay(1, 0)
    values["failed"] = type(failed.get(timeout=30, propagate=False)).__name__
    values["state"] = failed.state
    values["pong"] = len(app.control.ping(timeout=10, limit=1)) > 0
    return values


def main(command, *words):
    if command == "everything":
        answer = everything()
    elif command == "send":
        answer = [tasks.where.delay().id for _ in range(int(words[0]))]
    else:
        answer = [app.AsyncResult(word).get(timeout=30) for word in words]
    print(json.dumps(answer))


main(*sys.argv[1:])
