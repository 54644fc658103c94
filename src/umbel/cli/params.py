"""Types of option values that several commands take."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from umbel.logs import level_number

if TYPE_CHECKING:
    from click import Context, Parameter

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # no class that takes parameters before click 8.4

__all__ = ["INSTANT", "INSTANT_OR_SECONDS", "JSON_ARRAY", "JSON_OBJECT", "LOG_LEVEL", "NAMES", "ParamType"]


class _Names(ParamType):
    """Names separated by commas."""

    name = "a,b,…"

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> list[str]:
        if isinstance(value, str):
            return [name.strip() for name in value.split(",") if name.strip()]
        return list(value)


class _Json(ParamType):
    """JSON of one kind."""

    def __init__(self, kind: type, name: str) -> None:
        self.kind = kind
        self.name = f"json {name}"

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> Any:
        if isinstance(value, self.kind):
            return value
        try:
            decoded = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)
        if not isinstance(decoded, self.kind):
            self.fail(f"expected a {self.name}, got {value!r}", param, ctx)
        return decoded


class _Instant(ParamType):
    """ISO 8601 text, or seconds where those are taken too."""

    def __init__(self, *, seconds: bool = False) -> None:
        self.seconds = seconds
        self.name = "iso-8601 or float" if seconds else "iso-8601"

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> datetime | float:
        if isinstance(value, (datetime, float)):
            return value
        if self.seconds:
            try:
                return float(value)
            except ValueError:
                pass  # not seconds, so an instant
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"expected {self.name} such as 2030-01-31T12:00:00, got {value!r}", param, ctx)


class _LogLevel(ParamType):
    """The name of a log level in any case, or its number."""

    name = "level"

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> int:
        try:
            return level_number(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


NAMES: Final = _Names()
JSON_ARRAY: Final = _Json(list, "array")
JSON_OBJECT: Final = _Json(dict, "object")
INSTANT: Final = _Instant()
INSTANT_OR_SECONDS: Final = _Instant(seconds=True)
LOG_LEVEL: Final = _LogLevel()
