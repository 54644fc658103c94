"""Elastic APM: a transaction for the run, of the program's trace, and the error that it takes from sys.exc_info()."""

import json

import elasticapm
from elasticapm.contrib.celery import register_exception_tracking, register_instrumentation
from elasticapm.transport.base import Transport

captured = []


class Kept(Transport):
    def start_thread(self, pid=None):
        pass

    def queue(self, event_type, data, flush=False):
        captured.append((event_type, data))


client = elasticapm.Client(
    service_name="errors", transport_class="__main__.Kept", cloud_provider=False, central_config=False
)
register_exception_tracking(client)
register_instrumentation(client)

from celery import Celery  # noqa: E402 - as programs do it

app = Celery("errors", broker="memory://", backend="cache+memory://")


@app.task
def boom():
    raise ValueError("x")


client.begin_transaction("program")
with app.worker(pool="threads"):
    boom.delay().get(timeout=10, propagate=False)
client.end_transaction("program", "done")
client.close()
errors = [data["exception"] for kind, data in captured if kind == "error"]
transactions = [data for kind, data in captured if kind == "transaction"]
print(
    json.dumps(
        {
            "errors": [(error["type"], error["message"]) for error in errors],
            "frames": [frame["function"] for error in errors for frame in error["stacktrace"]],
            "outcomes": {data["name"]: data["outcome"] for data in transactions},
            "traces": len({data["trace_id"] for data in transactions}),
        }
    )
)
