"""Celery 3's module."""

from __future__ import annotations

from umbel.state import Proxy, get_current_app

send_task = Proxy(lambda: get_current_app().send_task)
