"""A Django project: results in its database, and a schedule from it, by the commands that Celery's users have."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

Path("shop").mkdir()
Path("shop/__init__.py").write_text("from .celery import app\n")
Path("shop/settings.py").write_text("""
SECRET_KEY = "x"
INSTALLED_APPS = ["django_celery_beat", "django_celery_results", "shop"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3", "OPTIONS": {"timeout": 30}}
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": "cache"}}
USE_TZ = True
TIME_ZONE = "UTC"
CELERY_BROKER_URL = "sqlite:///broker.db"
CELERY_RESULT_BACKEND = "django-db"
CELERY_CACHE_BACKEND = "default"
CELERY_RESULT_EXTENDED = True
CELERY_RESULT_CHORD_RETRY_INTERVAL = 0.1
""")
Path("shop/celery.py").write_text("""
from celery import Celery
app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
""")
Path("shop/tasks.py").write_text("""
from celery import shared_task

@shared_task(bind=True)
def add(self, x, y):
    self.request.meta = {"note": "from the task"}
    return x + y

@shared_task
def total(numbers):
    return sum(numbers)

@shared_task
def fail():
    raise KeyError("nothing")
""")
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
sys.path.insert(0, str(Path.cwd()))

import django  # noqa: E402 - the project comes first

django.setup()

from celery import chord, group  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django_celery_beat.models import IntervalSchedule, PeriodicTask  # noqa: E402
from django_celery_results.backends.cache import CacheBackend  # noqa: E402
from django_celery_results.models import TaskResult  # noqa: E402
from shop.celery import app  # noqa: E402
from shop.tasks import add, fail, total  # noqa: E402

call_command("migrate", verbosity=0)
every = IntervalSchedule.objects.create(every=1, period="seconds")
PeriodicTask.objects.create(interval=every, name="often", task="shop.tasks.add", args="[20, 22]")

celery = str(Path(sys.executable).with_name("celery"))
running = []
for command in (["worker", "-c", "2", "-l", "INFO"], ["beat", "-S", "django", "-l", "INFO"]):
    with open(f"{command[0]}.log", "w") as log:
        running.append(
            subprocess.Popen([celery, "-A", "shop", *command], stdout=log, stderr=subprocess.STDOUT)
        )


def found(query):
    """What a query gives as soon as it gives anything."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if (row := query.first()) is not None:
            return row
        time.sleep(0.1)
    logs = "".join(Path(f"{name}.log").read_text() for name in ("worker", "beat"))
    raise AssertionError(f"nothing came:\n{logs}")


try:
    answer = add.delay(2, 3)
    said = {"added": answer.get(timeout=60)}
    row = found(TaskResult.objects.filter(task_id=answer.id, status="SUCCESS"))
    said["row"] = [
        row.task_name,
        json.loads(row.task_args),
        row.worker == answer.worker,
        json.loads(row.meta)["note"],
    ]
    failed = fail.delay()
    said["failed"] = repr(failed.get(timeout=60, propagate=False))
    said["traceback"] = "KeyError" in TaskResult.objects.get(task_id=failed.id).traceback
    said["group"] = group(add.s(number, number) for number in range(3)).apply_async().get(timeout=60)
    said["chord"] = chord(add.s(number, 1) for number in range(3))(total.s()).get(timeout=60)
    periodic = found(TaskResult.objects.filter(periodic_task_name="often", status="SUCCESS"))
    said["periodic"] = json.loads(periodic.result)
    answer.forget()
    said["forgotten"] = TaskResult.objects.filter(task_id=answer.id).count()
    cached = CacheBackend(app=app, url=None)
    cached.mark_as_done("here", {"in": "the cache"})
    said["cached"] = cached.get_result("here")
    print(json.dumps(said))
finally:
    for process in running:
        process.terminate()
    for process in running:
        process.wait(30)
