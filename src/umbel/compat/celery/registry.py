"""Celery 3's module: the tasks of the current application."""

from __future__ import annotations

from umbel.state import Proxy, get_current_app

tasks = Proxy(lambda: get_current_app().tasks)
