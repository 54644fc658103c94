"""redbeat: entries are written to Redis, read again, and sent by its scheduler."""

import json
import os
import sys

from celery import Celery
from celery.schedules import crontab, schedule
from redbeat import RedBeatScheduler, RedBeatSchedulerEntry

url = os.environ["REDIS_URL"]
app = Celery("entries", broker=url, backend=url)
app.conf.redbeat_redis_url = url
app.conf.redbeat_lock_key = None


@app.task(name="entries.add")
def add(x, y):
    return x + y


entry = RedBeatSchedulerEntry("nightly", "entries.add", crontab(minute="30", hour="2"), args=[1, 2], app=app)
entry.save()
again = RedBeatSchedulerEntry.from_key(entry.key, app=app)
RedBeatSchedulerEntry("often", "entries.add", schedule(0.01), args=[3, 4], app=app).save()

scheduler = RedBeatScheduler(app=app)
for _ in range(200):
    scheduler.tick()
    if app.connection().default_channel.queue_declare("celery")[1]:
        break
sent = app.connection().default_channel.queue_declare("celery")[1]
print(json.dumps({"same": again.schedule == entry.schedule, "args": again.args, "sent": sent > 0}))
sys.stdout.flush()
