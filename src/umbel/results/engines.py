"""Connections to an SQL database: an engine for each process that uses it, made and renewed when it is needed."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from umbel.config.sources import import_path
from umbel.errors import ImproperlyConfigured
from umbel.stores.forks import renew_in_children

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from umbel.results.options import DatabaseOptions
    from umbel.results.tables import ResultTables

__all__ = ["Engines", "parse_url"]


class Engines:
    """The engine of this process; the tables are made with the first one.

    Args:
        url: of the database.
        settings: how engines are made.
        tables: what has to be there.
    """

    def __init__(self, url: sa.URL, settings: DatabaseOptions, tables: ResultTables) -> None:
        self._url = url
        self._settings = settings
        self._tables = tables
        self._lock = threading.RLock()
        renew_in_children(self, _lock=threading.RLock)
        self._engine: Engine | None = None
        self._pid = 0
        self._prepared = False

    def own(self) -> Engine:
        """This process's engine: a child must not use, nor close, its parent's connections.

        Raises ImproperlyConfigured for a driver or options that cannot be, SQLAlchemy's errors for the tables.
        """
        with self._lock:
            if self._engine is not None and self._pid != os.getpid():
                self._engine.dispose(close=False)
                self._engine = None
            if self._engine is None:
                self._engine, self._pid = _make_engine(self._url, self._settings), os.getpid()
            if not self._prepared:
                self._tables.prepare(self._engine)
                self._prepared = True
            return self._engine

    def forget(self) -> None:
        """Close the connections; the next use makes new ones. Safe twice."""
        with self._lock:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.dispose(close=self._pid == os.getpid())


def parse_url(url: str) -> sa.URL:
    """What a URL names. Raises ImproperlyConfigured, without the password that may be in it."""
    try:
        return sa.make_url(url)
    except sa.exc.ArgumentError:
        raise ImproperlyConfigured(
            "result_backend: expected db+DIALECT[+DRIVER]://user:password@host/name as SQLAlchemy reads it"
        ) from None


def _make_engine(url: sa.URL, settings: DatabaseOptions) -> Engine:
    # What errors and logs say must not hold what tasks returned.
    given = {"hide_parameters": True, **settings.engine_options}
    if settings.short_lived_sessions:
        given = {name: value for name, value in given.items() if not name.startswith("pool")}
        given.pop("max_overflow", None)
        given["poolclass"] = sa.NullPool
    try:
        engine = sa.create_engine(url, **given)
    except (sa.exc.ArgumentError, ImportError, TypeError) as error:
        raise ImproperlyConfigured(f"database_engine_options and the driver of {url!r}: {error}") from error
    callback = settings.engine_callback
    if isinstance(callback, str):
        callback = _imported(callback)
    if callback is not None:
        if not callable(callback):
            raise ImproperlyConfigured(f"database_engine_callback must be callable, got {callback!r}")
        callback(engine)
    return engine


def _imported(path: str) -> Any:
    try:
        return import_path(path)
    except (ImportError, AttributeError) as error:
        raise ImproperlyConfigured(f"database_engine_callback: cannot import {path!r}: {error}") from error
