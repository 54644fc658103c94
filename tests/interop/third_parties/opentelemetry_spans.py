"""OpenTelemetry: the span of the publish and that of the run belong to one trace."""

import json

from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
CeleryInstrumentor().instrument()

from celery import Celery  # noqa: E402 - as programs do it

app = Celery("spans", broker="memory://", backend="cache+memory://")


@app.task
def add(x, y):
    return x + y


with app.worker(pool="threads"):
    assert add.delay(1, 2).get(timeout=10) == 3

spans = exporter.get_finished_spans()
print(
    json.dumps(
        {
            "kinds": sorted(span.kind.name for span in spans),
            "traces": len({s.context.trace_id for s in spans}),
        }
    )
)
