"""Results in SQL databases."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("DatabaseBackend",)

__getattr__ = _lazily(
    __name__,
    {
        "DatabaseBackend": "umbel.results.database:DatabaseResultBackend",
        "Task": "celery.backends.database.models:Task",
        "TaskSet": "celery.backends.database.models:TaskSet",
        "TaskExtended": "celery.backends.database.models:TaskExtended",
        "SessionManager": "celery.backends.database.session:SessionManager",
    },
)
