"""Use the project as a view does: ``run.py everything``, ``run.py send COUNT`` or ``run.py read ID…``."""

# ruff: noqa: E402 - Django has to be set up before its models are imported

import json
import os
import sys
import uuid

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

import django

django.setup()

from django.db import transaction
from orders import tasks
from orders.models import Order
from shop.celery import app


def everything():
    values = {}
    with transaction.atomic():
        order = Order.objects.create()
        values["before commit"] = tasks.confirm.delay_on_commit(order.pk)
    values["confirmed"] = tasks.confirm.delay(order.pk).get(timeout=30)
    values["seen"] = tasks.status.delay(order.pk).get(timeout=30)
    with transaction.atomic():
        lost = Order.objects.create()
        tasks.confirm.delay_on_commit(lost.pk)
        transaction.set_rollback(True)
    missing = tasks.status.delay(lost.pk + 1000)
    values["missing"] = type(missing.get(timeout=30, propagate=False)).__name__
    values["limit"] = app.conf.task_time_limit
    values["zone"] = str(app.conf.timezone)
    values["known"] = sorted(name for name in app.tasks if name.startswith("orders."))
    chosen = str(uuid.uuid4())
    values["by id"] = tasks.where.apply_async(task_id=chosen).id == chosen
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
