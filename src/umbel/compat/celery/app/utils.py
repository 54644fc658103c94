"""Helpers of applications."""

from __future__ import annotations

import re
from typing import Any

from umbel.app.application import unpickle_app
from umbel.app.bugreport import bugreport
from umbel.config import Settings
from umbel.config.censor import censored, mask_url
from umbel.config.settings import NEW_NAMES, OLD_NAMES

__all__ = ("Settings", "appstr", "bugreport", "filter_hidden_settings", "find_app", "sanitize_url")

HIDDEN_SETTINGS = re.compile(
    "API|TOKEN|KEY|SECRET|PASS|PROFANITIES_LIST|SIGNATURE|DATABASE|BEAT_DBURI", re.IGNORECASE
)


def appstr(app: Any) -> str:
    """A name for an application in texts."""
    return f"{app.main or '__main__'} at {id(app):#x}"


def filter_hidden_settings(conf: Any) -> Any:
    """Settings with their secrets masked."""
    return censored(conf)


def sanitize_url(url: Any, mask: str = "**") -> Any:
    """A URL with its password masked; anything else as it is."""
    return mask_url(url) if isinstance(url, str) else url


def find_app(app: Any, symbol_by_name: Any = None, imp: Any = None) -> Any:
    """The application that a path names, as ``-A`` finds it."""
    if not isinstance(app, str):
        return app
    from umbel.cli.finding import find_app as find

    return find(app)


def detect_settings(
    conf: Any, preconf: Any = None, ignore_keys: Any = None, prefix: str | None = None
) -> Any:
    """Settings from a mapping and from what was set before."""
    settings = Settings(preconf or {}, prefix=prefix)
    if conf is not None:
        settings.read_from(conf, prefix)
    return settings.finalize()


def _new_key_to_old(key: str) -> str:
    return OLD_NAMES.get(key, key)


def _old_key_to_new(key: str) -> str:
    return NEW_NAMES.get(key, key)


class AppPickler:
    """How applications were pickled before Celery 3.1."""

    def __call__(self, cls: Any, *args: Any) -> Any:
        kwargs = self.build_kwargs(*args)
        app = self.construct(cls, **kwargs)
        self.prepare(app, **kwargs)
        return app

    def prepare(self, app: Any, **kwargs: Any) -> None:
        """Set its changes."""
        app.conf.update(kwargs["changes"])

    def build_kwargs(self, *args: Any) -> dict[str, Any]:
        """The arguments to make it with."""
        return self.build_standard_kwargs(*args)

    def build_standard_kwargs(
        self,
        main: Any,
        changes: Any,
        loader: Any,
        backend: Any,
        amqp: Any,
        events: Any,
        log: Any,
        control: Any,
        accept_magic_kwargs: Any,
        config_source: Any = None,
        config_source_silent: bool = False,
    ) -> dict[str, Any]:
        """The arguments to make it with."""
        return {
            "main": main,
            "loader": loader,
            "backend": backend,
            "amqp": amqp,
            "changes": changes,
            "events": events,
            "log": log,
            "control": control,
            "set_as_current": False,
            "config_source": config_source,
            "config_source_silent": config_source_silent,
        }

    def construct(self, cls: Any, **kwargs: Any) -> Any:
        """Make it."""
        return cls(**kwargs)


def _unpickle_app(cls: Any, pickler: Any, *args: Any) -> Any:
    return pickler()(cls, *args)


def _unpickle_app_v2(cls: Any, kwargs: dict[str, Any]) -> Any:
    kwargs["set_as_current"] = False
    return unpickle_app(cls, kwargs)
