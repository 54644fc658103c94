"""The settings and their defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from umbel.config.settings import NEW_NAMES, OLD_NAMES, SETTINGS, find_setting
from umbel.logs import PROCESS_FORMAT, TASK_FORMAT

from ..utils.serialization import strtobool

__all__ = ("NAMESPACES", "Option", "find", "flatten")

DEFAULT_POOL = "prefork"
DEFAULT_ACCEPT_CONTENT = ("json",)
DEFAULT_PROCESS_LOG_FMT = PROCESS_FORMAT
DEFAULT_TASK_LOG_FMT = TASK_FORMAT
DEFAULT_SECURITY_DIGEST = "sha256"


class searchresult(NamedTuple):
    """Where a setting was found."""

    namespace: str | None
    key: str
    type: Any


class Option:
    """One setting: what it is by default and of which type."""

    typemap: Any = {
        "string": str,
        "int": int,
        "float": float,
        "any": lambda value: value,
        "bool": strtobool,
        "dict": dict,
        "tuple": tuple,
    }
    alt: Any = None
    deprecate_by: Any = None
    remove_by: Any = None
    old: Any = frozenset()

    def __init__(self, default: Any = None, *args: Any, **kwargs: Any) -> None:
        self.default = default
        self.type = kwargs.pop("type", "string")
        vars(self).update(kwargs)

    def to_python(self, value: Any) -> Any:
        """The value of a text."""
        return self.typemap.get(self.type, self.typemap["any"])(value)

    def __repr__(self) -> str:
        return f"<Option: type->{self.type} default->{self.default!r}>"


class Namespace(dict[str, Any]):
    """Settings by the first part of their names."""


def _namespaces() -> Namespace:
    found = Namespace()
    for setting in SETTINGS:
        if setting.ours or setting.unlisted:
            continue
        place = found.setdefault(setting.group, Namespace()) if setting.group else found
        place[setting.key] = Option(setting.default, type=setting.type)
    return found


NAMESPACES = _namespaces()


def flatten(d: Any, root: str = "", keyfilter: Any = None) -> Iterator[tuple[str, Any]]:
    """The settings of a tree of namespaces, by their whole names."""
    for key, value in d.items():
        name = f"{root}_{key}" if root else key
        if isinstance(value, Namespace):
            yield from flatten(value, name, keyfilter)
        else:
            yield name, value


DEFAULTS = {name: option.default for name, option in flatten(NAMESPACES)}
SETTING_KEYS = set(DEFAULTS)
_TO_OLD_KEY = dict(OLD_NAMES)
_TO_NEW_KEY = dict(NEW_NAMES)
_OLD_DEFAULTS = {old: DEFAULTS.get(new) for old, new in NEW_NAMES.items()}
_OLD_SETTING_KEYS = set(NEW_NAMES)


def find(name: str, namespace: str = "celery") -> searchresult:
    """A setting by a part of its name."""
    return searchresult(*find_setting(name, namespace))
