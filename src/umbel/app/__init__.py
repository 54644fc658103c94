"""Applications: ``Umbel``, and as the same class ``Celery``."""

from umbel.app.application import Celery, Umbel
from umbel.app.shared import default_app, shared_task

__all__ = ["Celery", "Umbel", "default_app", "shared_task"]
