"""Growing and shrinking with the work."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Autoscaler", "WorkerComponent")

__getattr__ = _lazily(
    __name__,
    {
        "Autoscaler": "umbel.worker.autoscale:Autoscaler",
        "AUTOSCALE_KEEPALIVE": "umbel.worker.autoscale:AUTOSCALE_KEEPALIVE",
        "WorkerComponent": "celery.worker.steps:WorkerComponent",
    },
)
