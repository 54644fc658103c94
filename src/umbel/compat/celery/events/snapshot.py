"""Pictures of what is known, from time to time."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Polaroid", "evcam")

__getattr__ = _lazily(__name__, {name: f"umbel.events.snapshot:{name}" for name in __all__})
