"""``Settings``: what ``app.conf`` is.

It looks like a mapping and like an object with attributes, and reads like Celery's: names old and new, a namespace,
several layers of which the first that says something wins::

    changes      what the program set on ``app.conf``
    defaults     what ``add_defaults`` added, the latest first, then the source (``celeryconfig``, an object, ...)
    the table    the default of every setting

The source is read on the first access to a value, so that a program can say where it is, and what else to change,
in any order. The resolved values are the instance's own attributes: reading ``conf.task_serializer`` costs what any
attribute costs. Whatever changes a layer drops them all, and the next read resolves them anew.
"""

from __future__ import annotations

import os
import warnings
from _thread import (
    RLock,  # threading is for who starts threads; this is its lock, and costs nothing to import
)
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, TypeAlias

from umbel.config.censor import censored as censor
from umbel.config.layers import MISSING, find_free, free_names, names_in, settings_in, strangers_in
from umbel.config.names import check_mixing, meaning_of
from umbel.config.settings import BY_NAME, NEW_NAMES, SETTINGS, FoundSetting, find_setting
from umbel.config.sources import read_source, source_from_environment

__all__ = ["Settings"]

Layer: TypeAlias = Mapping[str, Any]

#: Settings that the environment overrides, whatever was configured, and the variables that do it.
_ENVIRONMENT = {
    "broker_url": "CELERY_BROKER_URL",
    "broker_read_url": "CELERY_BROKER_READ_URL",
    "broker_write_url": "CELERY_BROKER_WRITE_URL",
    "result_backend": "CELERY_RESULT_BACKEND",
}
_CONFIG_MODULE = "CELERY_CONFIG_MODULE"
#: Celery keeps the old names it found among the changes, and pytest-celery counts on it.
_DEPRECATED = "deprecated_settings"
_DICT_MEMBERS = frozenset(dir(dict))


def _nothing() -> None:
    pass


def _ignore(settings: Settings) -> None:
    pass


class _State(MutableMapping[str, Any]):
    """The parts of ``Settings`` that are not settings; slots, so that its attributes are settings only."""

    __slots__ = (
        "_added",
        "_after_load",
        "_before_load",
        "_changes",
        "_generation",
        "_layers",
        "_loaded",
        "_loading",
        "_lock",
        "_notes",
        "_old_names",
        "_pending",
        "_prefix",
        "_preset",
        "_silent",
        "_source",
        "_table",
        "_told",
        "_urls",
    )


class Settings(_State):
    """The settings of an application: a mapping with attribute access, checked against the table of settings.

    Args:
        changes: settings that win over every source.
        defaults: layers under the changes, the first of them winning; they count as loaded.
        prefix: the namespace; with ``"CELERY"``, ``CELERY_TASK_SERIALIZER`` means ``task_serializer``.
        before_load: called before the source is read.
        after_load: called with these settings once it was.

    Reading may raise ``ImproperlyConfigured`` (a misspelt name, a bad value, old and new names mixed) or what
    importing the source raised; writing raises it for the name and value written.
    """

    def __init__(
        self,
        changes: Layer | None = None,
        defaults: Iterable[Layer] = (),
        prefix: str | None = None,
        *,
        before_load: Callable[[], object] = _nothing,
        after_load: Callable[[Settings], object] = _ignore,
    ) -> None:
        self._changes: dict[str, Any] = {}
        self._pending: dict[str, Any] | None = None
        self._added: list[Layer | Callable[[], Layer]] = list(reversed(list(defaults)))
        self._layers: list[Layer] = []
        self._table: dict[str, Any] = {
            setting.name: dict(setting.default) if isinstance(setting.default, dict) else setting.default
            for setting in SETTINGS
        }
        self._preset: set[str] = set()
        self._source: object = None
        self._silent = False
        self._before_load = before_load
        self._after_load = after_load
        self._loaded = False
        self._loading = False
        self._lock = RLock()
        self._generation = 0
        self._urls: dict[str, Any] = {}
        self._old_names: frozenset[str] = frozenset()
        self._notes: list[str] = []
        self._told: set[str] = set()
        self._set_prefix(prefix)
        if changes:
            self.update(changes)

    # -- Sources

    def read_from(self, source: object, namespace: str | None = None, silent: bool = False) -> None:
        """Take the settings from a mapping, an object, or the path of one; replaces the source given before.

        It is read on the first access to a value. If one was read already it is read now, and, as in Celery, what
        the program changed since then is dropped.

        Args:
            source: a mapping, a module or other object, or ``module``, ``module.name`` or ``module:name``.
            namespace: what the names of settings in it begin with; ``None`` leaves the namespace as it is.
            silent: a path that cannot be imported counts as empty.
        """
        self._source, self._silent = source, silent
        if namespace:
            self._set_prefix(namespace)
        if self._loaded:
            with self._lock:
                self._loaded = False
                self._changes = dict(self._pending or {})
                self._reload()

    def read_from_environment(self, variable: str, silent: bool = False) -> bool:
        """Take the settings from the module an environment variable names, and tell whether it named one.

        Raises:
            ImproperlyConfigured: it is not set or empty, and not ``silent``.
        """
        module = source_from_environment(variable, silent)
        if module is not None:
            self.read_from(module, silent=silent)
        return module is not None

    def preset(self, **settings: object) -> None:
        """Set what the application's constructor was given; ``None`` says nothing.

        Such settings are changes like others, but do not count when old and new names are mixed.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        self.update(given)
        self._preset.update(given)

    def add_defaults(self, defaults: Layer | Callable[[], Layer]) -> None:
        """Add a layer under the changes and over the source; a function is called when the source is read.

        Celery makes no copy of a mapping either; but what is changed in it later is only seen after a change here.
        """
        if self._loaded and callable(defaults):
            defaults = defaults()
        self._added.append(defaults)
        if self._loaded and isinstance(defaults, Mapping):
            self._notes += strangers_in(defaults, self._prefix)
            self._layers.insert(0, defaults)
            self._forget()

    def finalize(self) -> Settings:
        """Read the source now, unless it was read before."""
        if not self._loaded:
            with self._lock:
                # What is read while loading, by the hooks or the source, must not load again.
                if not self._loaded and not self._loading:
                    self._reload()
        return self

    @property
    def configured(self) -> bool:
        """Whether the source was read."""
        return self._loaded

    def _reload(self) -> None:
        self._loading = True
        try:
            self._before_load()
            self._load()
            self._loaded = True
            self._forget()
            self._after_load(self)
        except AttributeError as error:
            # From an attribute access this would read as "there is no such setting".
            raise ModuleNotFoundError(*error.args) from error
        finally:
            self._loading = False
            self._forget()

    def _load(self) -> None:
        path_or_object = self._source
        if path_or_object is None:
            path_or_object = source_from_environment(_CONFIG_MODULE, silent=True)
        source = None if path_or_object is None else read_source(path_or_object, self._silent)
        self._old_names = self._check_names(source)
        self._pending = dict(self._changes)
        added = [layer() if callable(layer) else layer for layer in reversed(self._added)]
        self._layers = [*added, *([] if source is None else [source])]
        self._changes = self._canonical(self._changes)
        self._changes[_DEPRECATED] = set(self._old_names)
        self._forget()
        self._notes += [note for layer in self._layers for note in strangers_in(layer, self._prefix)]
        self._resolve()

    def _check_names(self, source: Layer | None) -> frozenset[str]:
        if self._prefix:
            names = () if source is None else names_in(source, self._prefix).values()
            return frozenset(
                name for name in names if name in NEW_NAMES and not name.startswith(self._prefix)
            )
        return check_mixing(set(self._changes) - self._preset if source is None else set(source))

    def _canonical(self, layer: Layer) -> dict[str, Any]:
        free = {name: layer[name] for name in free_names(layer, self._prefix)}
        return free | settings_in(layer, self._prefix)

    def _set_prefix(self, prefix: str | None) -> None:
        self._prefix = prefix.rstrip("_") + "_" if prefix else ""
        self._forget()

    # -- Resolved values

    def _forget(self) -> None:
        self._generation += 1
        self.__dict__.clear()

    def _values(self) -> dict[str, Any]:
        if not self.__dict__:
            self.finalize()
            self._cache()
        return self.__dict__

    def _cache(self) -> None:
        while True:
            generation = self._generation
            values = self._resolve()
            self._urls = {name: values.pop(name) for name in _ENVIRONMENT}
            self.__dict__.update(values)
            # Another thread may have changed a layer meanwhile.
            if generation == self._generation:
                return
            self.__dict__.clear()

    def _resolve(self) -> dict[str, Any]:
        values = dict(self._table)
        for layer in reversed((self._changes, *self._layers)):
            values.update(settings_in(layer, self._prefix))
        for name in ("task_default_exchange", "task_default_routing_key"):
            if values[name] is None:
                values[name] = values["task_default_queue"]
        if values["timezone"] is None:
            # Django's setting, which is in the source when that is Django's settings.
            zone = find_free(self._layers, "TIME_ZONE", "")
            values["timezone"] = None if zone is MISSING else zone
        return values

    @property
    def broker_url(self) -> Any:
        """The broker's URL; ``CELERY_BROKER_URL`` wins over every source."""
        configured = self._configured_url("broker_url")
        return self._values()["broker_host"] if configured is None else configured

    @property
    def broker_read_url(self) -> Any:
        """The URL consumers connect to; ``broker_url`` unless something else was said."""
        return self._configured_url("broker_read_url") or self.broker_url

    @property
    def broker_write_url(self) -> Any:
        """The URL senders connect to; ``broker_url`` unless something else was said."""
        return self._configured_url("broker_write_url") or self.broker_url

    @property
    def result_backend(self) -> Any:
        """Where results are kept; ``CELERY_RESULT_BACKEND`` wins over every source."""
        return self._configured_url("result_backend")

    def _configured_url(self, name: str) -> Any:
        self._values()
        return os.environ.get(_ENVIRONMENT[name]) or self._urls[name]

    # -- Mapping and attributes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = self._find(name)
        if value is MISSING:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if name in _State.__slots__:
            object.__setattr__(self, name, value)
        else:
            self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __getitem__(self, key: str) -> Any:
        value = self._find(key)
        if value is MISSING:
            hint = f" (nor {self._prefix + key!r})" if self._prefix else ""
            raise KeyError(f"Key not found: {key!r}{hint}")
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """Give a value by any of its names, or ``default`` if there is none."""
        value = self._find(key)
        return default if value is MISSING else value

    def _find(self, key: str) -> Any:
        values = self._values()
        value = values.get(key, MISSING)
        if value is not MISSING:
            return value
        meaning = meaning_of(key, self._prefix)
        if meaning is None:
            return find_free((self._changes, *self._layers), key, self._prefix)
        return getattr(self, meaning.setting) if meaning.setting in _ENVIRONMENT else values[meaning.setting]

    def first(self, *keys: str) -> Any:
        """Give the first value of these that is not ``None``."""
        return next((value for value in map(self.get, keys) if value is not None), None)

    def __setitem__(self, key: str, value: object) -> None:
        self.update({key: value})

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Change settings: all of them, or none if one is misspelt or has a bad value.

        Before the source is read the changes are kept, and win over it when it is.
        """
        given = dict(*args, **kwargs)
        notes = strangers_in(given, self._prefix)
        checked = self._canonical(given)
        self._changes.update(checked if self._loaded else self._as_spelt(given, checked))
        self._notes += notes
        self._forget()

    def _as_spelt(self, given: dict[str, Any], checked: dict[str, Any]) -> dict[str, Any]:
        """Keep the spelling until the source is read: whether old names may be used is decided then."""
        return given | {spelt: checked[name] for name, spelt in names_in(given, self._prefix).items()}

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Set ``key`` unless it has a value; before the source is read, unless the program changed it."""
        if key not in self:
            self[key] = default
        return self[key] if self._loaded else self._changes.get(key, default)

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def pop(self, key: str, *default: Any) -> Any:
        """Take a change back and give its value.

        Raises:
            KeyError: the program did not change this setting, and there is no ``default``.
        """
        spelling = self._spelling_in_changes(key)
        if spelling is None:
            if default:
                return default[0]
            raise KeyError(f"Key not found in the first mapping: {key!r}")
        self._forget()
        return self._changes.pop(spelling)

    def clear(self) -> None:
        """Take all changes back; the source and the defaults stay."""
        self._changes.clear()
        self._forget()

    def _spelling_in_changes(self, key: str) -> str | None:
        if key in self._changes:
            return key
        meaning = meaning_of(key, self._prefix)
        return None if meaning is None else names_in(self._changes, self._prefix).get(meaning.setting)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        return self._find(key) is not MISSING if self._loaded else self._spelling_in_changes(key) is not None

    def __iter__(self) -> Iterator[str]:
        self.finalize()
        layers = reversed((self._changes, *self._layers))
        free = (name for layer in layers for name in free_names(layer, self._prefix))
        return iter(dict.fromkeys((*self._table, *free)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.table()!r})"

    def copy(self) -> Settings:
        """Give settings that read the same and are changed apart."""
        self.finalize()
        return Settings(self._changes, self._layers, self._prefix)

    __copy__ = copy

    # -- Layers, as Celery shows them

    @property
    def maps(self) -> list[Layer]:
        """The layers, the first winning."""
        # Who holds a layer may write to it.
        self._forget()
        return [self._changes, *self._layers, self._table]

    @property
    def changes(self) -> dict[str, Any]:
        """What the program set. Set it here, or better with ``update``, which checks it."""
        self._forget()
        return self._changes

    @property
    def defaults(self) -> list[Layer]:
        """The layers under the changes, the first winning."""
        return self.maps[1:]

    @property
    def prefix(self) -> str | None:
        """The namespace with its underscore, if there is one."""
        return self._prefix or None

    @property
    def deprecated_settings(self) -> frozenset[str]:
        """The old names found in the source."""
        return self.finalize()._old_names

    @property
    def generation(self) -> int:
        """A number that is another one after any change: what was derived from settings before is then stale."""
        return self._generation

    # -- Questions

    def without_defaults(self) -> dict[str, Any]:
        """Give what was set, without what was not."""
        self.finalize()
        layers: list[Layer] = [self._changes, *self._layers]
        result: dict[str, Any] = {}
        for layer in reversed(layers):
            result.update(self._canonical(layer))
        return result

    def value_set_for(self, key: str) -> bool:
        """Tell whether a setting was set, by whatever name, rather than left at its default."""
        self.finalize()
        meaning = meaning_of(key, self._prefix)
        layers: tuple[Layer, ...] = (self._changes, *self._layers)
        if meaning is None:
            return find_free(layers, key, self._prefix) is not MISSING
        return any(meaning.setting in names_in(layer, self._prefix) for layer in layers)

    def find_option(self, name: str, namespace: str = "") -> FoundSetting:
        """Find a setting by its full name, or its name within a family.

        Raises:
            KeyError: there is none of this name.
        """
        return find_setting(name, namespace)

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """Give the value of the setting that ``find_option`` finds."""
        found = self.find_option(name, namespace)
        return self.get_by_parts(found.namespace, found.key)

    def get_by_parts(self, *parts: str | None) -> Any:
        """Give the value of a setting whose name is in parts: ``("worker", "disable_rate_limits")``."""
        return self["_".join(part for part in parts if part)]

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Give the settings as a dictionary to show: those that were set or all, secrets masked unless told not to."""
        settings = dict(self) if with_defaults else self.without_defaults()
        shown = {
            name: value
            for name, value in settings.items()
            if not name.startswith("_") and name not in _DICT_MEMBERS and name != _DEPRECATED
        }
        return censor(shown) if censored else shown

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """Give the settings as text, one a line."""
        from pprint import pformat  # reports are rare; it imports dataclasses, which is slow

        table = self.table(with_defaults, censored)
        return "\n".join(f"{name}: {pformat(value, width=50)}" for name, value in table.items())

    # -- Remarks

    def notes(self) -> list[str]:
        """Give what is to be said about these settings and was not said before: each remark once."""
        self.finalize()
        layers: tuple[Layer, ...] = (self._changes, *self._layers)
        set_here = {name for layer in layers for name in names_in(layer, self._prefix)}
        idle = [
            f"{name} is accepted and has no meaning in Umbel so far"
            for name in sorted(set_here)
            if BY_NAME[name].idle
        ]
        ending = [
            f"{name} goes in a later version; use {BY_NAME[name].deprecated}"
            for name in sorted(set_here)
            if BY_NAME[name].deprecated
        ]
        fresh = [note for note in dict.fromkeys((*self._notes, *idle, *ending)) if note not in self._told]
        self._told.update(fresh)
        return fresh

    def maybe_warn_deprecated_settings(self) -> bool:
        """Warn about each old name that was used, and tell whether there was any."""
        old = self.deprecated_settings
        for name in sorted(old):
            warnings.warn(
                f"The {name!r} setting is an old name; use {NEW_NAMES[name]} instead",
                DeprecationWarning,
                stacklevel=2,
            )
        return bool(old)
