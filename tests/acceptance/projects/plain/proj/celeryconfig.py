import os

from celery.schedules import crontab

broker_url = os.environ["BROKER_URL"]
result_backend = os.environ["RESULT_URL"]
broker_connection_retry_on_startup = True
timezone = "Europe/Berlin"
task_track_started = True
worker_prefetch_multiplier = 1
task_routes = {"proj.tasks.report": {"queue": "reports"}}
task_annotations = {"proj.tasks.flaky": {"default_retry_delay": 0}}
beat_schedule = {"report-every-night": {"task": "proj.tasks.report", "schedule": crontab(minute=0, hour=3)}}
