"""Django."""

from umbel.compat.lazily import lazily as _lazily
from umbel.contrib.django import fixup

__all__ = ("DjangoFixup", "fixup")

__getattr__ = _lazily(
    __name__,
    {name: f"umbel.contrib.django.project:{name}" for name in ("DjangoFixup", "DjangoWorkerFixup")},
)
