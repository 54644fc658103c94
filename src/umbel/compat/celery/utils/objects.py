"""Objects."""

from __future__ import annotations

from typing import Any

__all__ = ("Bunch", "FallbackContext", "getitem_property", "mro_lookup")


class Bunch:
    """An object with these attributes."""

    def __init__(self, **kwargs: Any) -> None:
        vars(self).update(kwargs)


def mro_lookup(cls: type, attr: str, stop: Any = None, monkey_patched: Any = None) -> type | None:
    """The first class in the order of resolution that has an attribute itself; None past those of ``stop``."""
    for base in cls.mro():
        if base in (stop or ()):
            value = vars(base).get(attr)
            module = vars(value).get("__module__") if "__dict__" in dir(value) else None
            if monkey_patched and value is not None and (module or value.__module__) not in monkey_patched:
                return base
            return None
        if attr in vars(base):
            return base
    return None


class FallbackContext:
    """A context manager that gives what was provided, or makes something and closes it at the end."""

    def __init__(self, provided: Any, fallback: Any, *fb_args: Any, **fb_kwargs: Any) -> None:
        self.provided = provided
        self.fallback = fallback
        self.fb_args = fb_args
        self.fb_kwargs = fb_kwargs
        self._context: Any = None

    def __enter__(self) -> Any:
        if self.provided is not None:
            return self.provided
        self._context = self.fallback(*self.fb_args, **self.fb_kwargs)
        return self._context.__enter__()

    def __exit__(self, *exc_info: object) -> Any:
        if self._context is not None:
            return self._context.__exit__(*exc_info)
        return None


class getitem_property:
    """An attribute that is an item of the object, or of a mapping in it: ``options.task_id``."""

    def __init__(self, keypath: str, doc: str | None = None) -> None:
        path, _, self.key = keypath.rpartition(".")
        self.path = path.split(".") if path else None
        self.__doc__ = doc

    def _place(self, obj: Any) -> Any:
        for part in self.path or ():
            obj = obj[part]
        return obj

    def __get__(self, obj: Any, type: Any = None) -> Any:
        return type if obj is None else self._place(obj).get(self.key)

    def __set__(self, obj: Any, value: Any) -> None:
        self._place(obj)[self.key] = value
