"""``app.bugreport()``: versions, platform, transports and settings, secrets masked, in the form of Celery's."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from umbel.config.censor import mask_url

if TYPE_CHECKING:
    from umbel.app.application import Umbel

__all__ = ["CELERY_VERSION", "bugreport"]

#: The version of Celery whose surface and wire this version keeps.
CELERY_VERSION: Final = "5.7.0"
_LIBRARIES: Final = ("msgspec", "redis", "hiredis", "uvloop", "click")


def bugreport(app: Umbel) -> str:
    """The text of the report."""
    libraries = " ".join(f"{name}:{_version(name)}" for name in _LIBRARIES)
    loader = type(app.loader)
    return "\n".join(
        (
            "",
            f"software -> celery:{CELERY_VERSION} umbel:{_version('umbel')} py:{platform.python_version()}",
            f"            {libraries}",
            f"platform -> system:{platform.system()} arch:{', '.join(filter(None, platform.architecture()))}",
            f"            kernel version:{platform.release()} imp:{platform.python_implementation()}",
            f"loader   -> {loader.__module__}.{loader.__qualname__}",
            f"settings -> transport:{_shown(app.conf.broker_url)} results:{_shown(app.conf.result_backend)}",
            "",
            app.conf.humanize(),
            "",
        )
    )


def _shown(url: Any) -> str:
    if not url:
        return "none"
    return ";".join(mask_url(each) for each in ([url] if isinstance(url, str) else map(str, url)))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
