"""Sentry: headers travel with the message, and the task's error is captured."""

import json

import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration

captured = []


class Kept(sentry_sdk.transport.Transport):
    def capture_envelope(self, envelope):
        captured.append(envelope)


sentry_sdk.init(
    dsn="http://key@localhost/1", integrations=[CeleryIntegration()], traces_sample_rate=1.0, transport=Kept
)

from celery import Celery  # noqa: E402 - as programs do it

app = Celery("errors", broker="memory://", backend="cache+memory://")


@app.task
def boom():
    raise ValueError("x")


@app.task(bind=True)
def headers(self):
    return sorted(self.request.headers or ())


with app.worker(pool="threads"), sentry_sdk.start_transaction(name="program"):
    seen = headers.delay().get(timeout=10)
    boom.delay().get(timeout=10, propagate=False)
sentry_sdk.flush()
errors = [
    value["type"]
    for envelope in captured
    for item in envelope.items
    if item.type == "event"
    for value in item.payload.json["exception"]["values"]
]
print(json.dumps({"trace": "sentry-trace" in seen, "errors": errors}))
