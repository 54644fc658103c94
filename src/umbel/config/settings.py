"""The one table of settings: ``app.conf``, its checks, the command line's help and the reference page come from it.

Every setting of Celery 5.7 is here, and Umbel's own (``ours``). The rows stand in files by subject, this module
joins them and has the ways to look them up.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from umbel.config._backend_settings import DATABASE, OTHERS, REDIS
from umbel.config._task_settings import GENERAL, RESULTS, SECURITY, TASKS
from umbel.config._worker_settings import BEAT, BROKER, CONTROL, EVENTS, WORKER
from umbel.config.setting import Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BY_NAME", "NEW_NAMES", "OLD_NAMES", "SETTINGS", "FoundSetting", "Setting", "find_setting"]

#: Every setting, general ones first, then by family.
SETTINGS: tuple[Setting, ...] = (
    GENERAL
    + BEAT
    + BROKER
    + OTHERS
    + CONTROL
    + EVENTS
    + REDIS
    + RESULTS
    + SECURITY
    + DATABASE
    + TASKS
    + WORKER
)

#: Lower-case name to setting.
BY_NAME: Mapping[str, Setting] = MappingProxyType({setting.name: setting for setting in SETTINGS})

#: Lower-case name to the old upper-case one, where there was one.
OLD_NAMES: Mapping[str, str] = MappingProxyType({s.name: s.old for s in SETTINGS if s.old})

#: Old upper-case name to the lower-case one.
NEW_NAMES: Mapping[str, str] = MappingProxyType({old: new for new, old in OLD_NAMES.items()})


class FoundSetting(NamedTuple):
    """Where a setting was found, in the shape of Celery's ``find``: namespace, key in it, and the setting."""

    namespace: str | None
    key: str
    type: Setting


def find_setting(name: str, namespace: str = "celery") -> FoundSetting:
    """Find a setting by its full name, or by its name within a family, ``namespace`` first.

    Raises:
        KeyError: there is none of this name.
    """
    wanted, family = name.lower(), namespace.lower()
    preferred = BY_NAME.get(f"{family}_{wanted}")
    if preferred is not None:
        return FoundSetting(family, wanted, preferred)
    for setting in SETTINGS:
        if setting.key == wanted:
            return FoundSetting(setting.group or None, wanted, setting)
    return FoundSetting(None, wanted, BY_NAME[wanted])
