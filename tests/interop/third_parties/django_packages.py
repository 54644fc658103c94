"""django-celery-beat sends what its models say; django-celery-results imports."""

import json
import time

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django_celery_beat", "django_celery_results"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    USE_TZ=True,
    TIME_ZONE="UTC",
)
django.setup()

from celery import Celery  # noqa: E402 - Django comes first
from django.core.management import call_command  # noqa: E402
from django_celery_beat.models import IntervalSchedule, PeriodicTask  # noqa: E402
from django_celery_beat.schedulers import DatabaseScheduler  # noqa: E402
from django_celery_results import backends, models  # noqa: E402, F401

call_command("migrate", verbosity=0)
app = Celery("models", broker="memory://", backend="cache+memory://")


@app.task(name="models.add")
def add(x, y):
    return x + y


every = IntervalSchedule.objects.create(every=1, period="seconds")
PeriodicTask.objects.create(interval=every, name="often", task="models.add", args="[1, 2]")
scheduler = DatabaseScheduler(app=app)
end = time.monotonic() + 20
while not app.connection().SimpleQueue("celery").qsize() and time.monotonic() < end:
    time.sleep(min(scheduler.tick(), 0.2))
with app.connection() as connection:
    message = connection.SimpleQueue("celery").get(timeout=1)
    print(
        json.dumps({"task": message.headers["task"], "periodic": message.headers.get("periodic_task_name")})
    )
    message.ack()
