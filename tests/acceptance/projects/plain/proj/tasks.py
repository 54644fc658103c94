import sys

from celery import Task, chain, chord, group, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_success
from celery.utils.log import get_task_logger

from proj.celery import app

logger = get_task_logger(__name__)

LIBRARY = "umbel" if "umbel" in sys.modules else "celery"


class Counting(Task):
    abstract = True
    runs = 0

    def before_start(self, task_id, args, kwargs):
        self.runs += 1


@task_success.connect
def tell(sender=None, result=None, **kwargs):
    logger.info("%s gave %r", sender.name, result)


@app.task(base=Counting)
def add(x, y):
    return x + y


@shared_task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=5)
def flaky(self, failures):
    try:
        if self.request.retries < failures:
            raise ConnectionError("not yet")
    except ConnectionError as error:
        raise self.retry(exc=error) from error
    return self.request.retries


@app.task
def divide(x, y):
    return x / y


@app.task(bind=True)
def fan_out(self, count):
    return self.replace(chord([add.s(number, number) for number in range(count)], total.s()))


@app.task(bind=True)
def where(self):
    return LIBRARY


@app.task(soft_time_limit=0.2)
def patient():
    try:
        while True:
            pass
    except SoftTimeLimitExceeded:
        return "out of time"


@app.task(bind=True)
def report(self):
    return self.request.delivery_info["routing_key"]


def workflows():
    return {
        "chain": chain(add.s(1, 2), add.s(3), add.s(4)),
        "group": group(add.s(number, 1) for number in range(5)),
        "chord": chord([add.s(number, 1) for number in range(5)], total.s()),
        "nested": chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s()),
    }
