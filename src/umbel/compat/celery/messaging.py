"""Celery 3's module: connections of the current application."""

from __future__ import annotations

from umbel.state import Proxy, get_current_app

establish_connection = Proxy(lambda: get_current_app().connection)
