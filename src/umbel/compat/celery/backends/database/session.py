"""Sessions with the database of results, for programs that query its tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from .models import TABLES

__all__ = ("SessionManager",)


class SessionManager:
    """Makes sessions with SQLAlchemy's URLs. One engine for each URL.

    Args:
        engine_callback: called with each new engine.
    """

    def __init__(self, engine_callback: Callable[[Any], object] | None = None) -> None:
        self.engine_callback = engine_callback
        self._engines: dict[str, Any] = {}

    def get_engine(self, dburi: str, **kwargs: Any) -> Any:
        """The engine of a URL; the keywords are those of ``create_engine``."""
        if dburi not in self._engines:
            engine = self._engines[dburi] = sa.create_engine(dburi, **kwargs)
            if self.engine_callback is not None:
                self.engine_callback(engine)
        return self._engines[dburi]

    def create_session(
        self, dburi: str, short_lived_sessions: bool = False, **kwargs: Any
    ) -> tuple[Any, Any]:
        """The engine of a URL, and what makes sessions with it."""
        engine = self.get_engine(dburi, **kwargs)
        return engine, sessionmaker(bind=engine)

    def prepare_models(self, engine: Any) -> None:
        """Create the tables that are missing."""
        TABLES.prepare(engine)

    def invalidate(self, dburi: str) -> None:
        """Close the connections to a database; the next session makes new ones."""
        engine = self._engines.pop(dburi, None)
        if engine is not None:
            engine.dispose()

    def session_factory(self, dburi: str, **kwargs: Any) -> Session:
        """A session with a database whose tables are there."""
        engine, make = self.create_session(dburi, **kwargs)
        self.prepare_models(engine)
        session: Session = make()
        return session
