"""Django tasks."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("DjangoTask",)

__getattr__ = _lazily(__name__, {name: f"umbel.contrib.django.task:{name}" for name in __all__})
