"""Django: settings, models and connections, wherever ``DJANGO_SETTINGS_MODULE`` is set.

Nothing of Django is imported before that, so that other programs pay nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from umbel.app import Umbel

__all__ = ["fixup"]


def fixup(app: Umbel) -> Any:
    """Tie an application to Django; None where the program is no Django project."""
    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        return None
    import warnings

    from umbel.errors import CeleryWarning

    try:
        from umbel.contrib.django.project import DjangoFixup
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "django":
            raise
        warnings.warn(
            CeleryWarning("DJANGO_SETTINGS_MODULE is set, but Django is not installed: tasks run without it"),
            stacklevel=2,
        )
        return None
    return DjangoFixup(app).install()
