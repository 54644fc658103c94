"""celery-progress: a task tells how far it is, and a page is told."""

import json
import sys

from django.conf import settings

settings.configure(INSTALLED_APPS=["celery_progress"], DATABASES={})
import django  # noqa: E402 - as programs do it

django.setup()
from celery import Celery  # noqa: E402
from celery_progress.backend import Progress, ProgressRecorder  # noqa: E402

app = Celery("bars", broker="memory://", backend="cache+memory://", set_as_current=True)
seen = []


@app.task(bind=True, name="bars.work")
def work(self, steps):
    recorder = ProgressRecorder(self)
    for step in range(steps):
        recorder.set_progress(step + 1, steps)
        seen.append(Progress(app.AsyncResult(self.request.id)).get_info())
    return "done"


with app.worker(pool="threads"):
    result = work.delay(2)
    assert result.get(timeout=20) == "done"
    info = Progress(result).get_info()
print(
    json.dumps(
        {
            "states": [each["state"] for each in seen],
            "percent": [each["progress"]["percent"] for each in seen],
            "end": info["result"],
        }
    )
)
sys.stdout.flush()
