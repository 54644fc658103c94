"""`import celery` that is Umbel: the names of Celery's and kombu's modules, and how they are put in the place of those.

The folders ``celery``, ``kombu``, ``billiard`` and ``vine`` beside this file hold thin modules: names and adapters for
what Umbel has under names of its own. They are imported under the names that users know, ``celery.app.task`` and not
``umbel.compat.celery.app.task``, and once: patches, signals, ``isinstance`` and pickles then agree.
"""

from umbel.compat.finder import AliasConflict, install_as_celery, is_installed

__all__ = ["AliasConflict", "install_as_celery", "is_installed"]
