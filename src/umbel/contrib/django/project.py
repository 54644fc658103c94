"""What an application does differently in a Django project, and what its workers do."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import django
from django.core import cache
from django.db import DatabaseError, InterfaceError, connections

from umbel import signals
from umbel.state import current_app_or_none
from umbel.task import Task

if TYPE_CHECKING:
    from umbel.app import Umbel

__all__ = ["DjangoFixup", "DjangoWorkerFixup"]

#: Parts of the messages of databases about connections that are gone anyway.
_GONE = ("closed", "not connected")


class DjangoFixup:
    """Finds the tasks of installed apps, sets Django up before they are imported, and sees to workers' connections."""

    def __init__(self, app: Umbel) -> None:
        self.app = app
        if current_app_or_none() is None:
            app.set_default()
        self._worker_fixup: DjangoWorkerFixup | None = None

    def install(self) -> Self:
        """Tie the application to the project."""
        # The project comes before what is installed, as with manage.py.
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - the path of imports is text
        if self.app.task_cls is Task:
            self.app.task_cls = "umbel.contrib.django.task:DjangoTask"
        signals.import_modules.connect(self.on_import_modules, sender=self.app, weak=False)
        signals.worker_init.connect(self.on_worker_init, weak=False)
        return self

    @property
    def worker_fixup(self) -> DjangoWorkerFixup:
        """What workers do."""
        if self._worker_fixup is None:
            self._worker_fixup = DjangoWorkerFixup(self.app)
        return self._worker_fixup

    @worker_fixup.setter
    def worker_fixup(self, fixup: DjangoWorkerFixup) -> None:
        self._worker_fixup = fixup

    def on_import_modules(self, **_: Any) -> None:
        """Set Django up before modules with tasks are imported."""
        self.worker_fixup.validate_models()

    def on_worker_init(self, sender: Any = None, **_: Any) -> None:
        """A worker starts, perhaps of another application."""
        if sender is None or sender.app is self.app:
            self.worker_fixup.worker = sender
            self.worker_fixup.install()

    def autodiscover_tasks(self) -> list[str]:
        """The packages that may have a module ``tasks``: the installed apps."""
        from django.apps import apps

        return [config.name for config in apps.get_app_configs()]


class DjangoWorkerFixup:
    """Gives each task fresh connections: those of databases and caches are closed before and after it.

    ``CELERY_DB_REUSE_MAX`` in the settings keeps database connections for so many tasks.
    """

    worker: Any = None

    def __init__(self, app: Umbel) -> None:
        self.app = app
        self.db_reuse_max = app.conf.get("CELERY_DB_REUSE_MAX", None)
        self._uses = 0

    def django_setup(self) -> None:
        """Load settings and installed apps."""
        django.setup()

    def validate_models(self) -> None:
        """Load Django and have it check itself, unless ``--skip-checks``."""
        self.django_setup()
        if not os.environ.get("CELERY_SKIP_CHECKS"):
            from django.core.checks import run_checks

            run_checks()

    def install(self) -> Self:
        """Begin to see to connections."""
        signals.beat_embedded_init.connect(self.close_database, weak=False)
        signals.task_prerun.connect(self.on_task_prerun, weak=False)
        signals.task_postrun.connect(self.on_task_postrun, weak=False)
        signals.worker_process_init.connect(self.on_worker_process_init, weak=False)
        self.close_database()
        self.close_cache()
        return self

    def on_worker_process_init(self, **_: Any) -> None:
        """Let go of the connections that were copied with the process: closing them would end the parent's."""
        for connection in connections.all(initialized_only=True):
            with suppress(AttributeError, OSError, TypeError, InterfaceError):
                os.close(connection.connection.fileno())
        self._close_all()
        self.close_cache()

    def on_task_prerun(self, sender: Any, **_: Any) -> None:
        """Called before each task."""
        if not sender.request.is_eager:
            self.close_database()

    def on_task_postrun(self, sender: Any, **_: Any) -> None:
        """Called after each task."""
        if not sender.request.is_eager:
            self.close_database()
            self.close_cache()

    def close_database(self, **_: Any) -> None:
        """Close the connections of databases, or count one more use of them."""
        if self.db_reuse_max and self._uses < self.db_reuse_max * 2:
            self._uses += 1
            return
        self._uses = 1
        self._close_all()

    def _close_all(self) -> None:
        for connection in connections.all(initialized_only=True):
            try:
                connection.close()
            except InterfaceError:
                continue
            except DatabaseError as error:
                if not any(part in str(error) for part in _GONE):
                    raise

    def close_cache(self) -> None:
        """Close the connections of caches."""
        with suppress(TypeError, AttributeError):
            cache.close_caches()
