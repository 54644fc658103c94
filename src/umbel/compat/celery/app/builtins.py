"""The tasks that every application has."""

from umbel.state import connect_on_app_finalize

__all__ = ()
