"""Celery 3's module: the current application's ``log``."""

from __future__ import annotations

from umbel.state import Proxy, get_current_app

get_default_logger = Proxy(lambda: get_current_app().log.get_default_logger)
setup_logger = Proxy(lambda: get_current_app().log.setup_logger)
setup_logging_subsystem = Proxy(lambda: get_current_app().log.setup_logging_subsystem)
redirect_stdouts_to_logger = Proxy(lambda: get_current_app().log.redirect_stdouts_to_logger)
