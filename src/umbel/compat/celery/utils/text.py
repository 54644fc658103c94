"""Text."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping
from pprint import pformat
from typing import Any

__all__ = (
    "abbr",
    "abbrtask",
    "dedent",
    "dedent_initial",
    "ensure_newlines",
    "ensure_sep",
    "fill_paragraphs",
    "indent",
    "join",
    "pluralize",
    "pretty",
    "simple_format",
    "str_to_list",
    "truncate",
)

UNKNOWN_SIMPLE_FORMAT_KEY = """
Unknown format %{0} in string {1!r}.
Possible causes: Did you forget to escape the expand sign (use '%%{0!r}'),
or did you escape and the value was expanded twice? (%%N -> %N -> %hostname)?
"""

RE_FORMAT = re.compile(r"%(\w|%)")


def str_to_list(s: Any) -> Any:
    """A comma-separated text as a list; anything else as it is."""
    return s.split(",") if isinstance(s, str) else s


def dedent_initial(s: str, n: int = 4) -> str:
    """A text without ``n`` blanks before its first line."""
    return s[n:] if s[:n] == " " * n else s


def dedent(s: str, sep: str = "\n") -> str:
    """A text whose lines begin four blanks further left."""
    return sep.join(dedent_initial(line) for line in s.splitlines())


def fill_paragraphs(s: str, width: int, sep: str = "\n") -> str:
    """A text with each of its paragraphs wrapped."""
    return sep.join(textwrap.fill(paragraph, width) for paragraph in s.split(sep))


def join(l: Any, sep: str = "\n") -> str:  # noqa: E741 - Celery's name
    """The texts that are not empty, joined."""
    return sep.join(each for each in l if each)


def ensure_sep(sep: str, s: str, n: int = 2) -> str:
    """A text that ends in ``n`` separators at least."""
    return s + sep * (n - s.count(sep))


def ensure_newlines(s: str, n: int = 2) -> str:
    """A text that ends in ``n`` newlines at least."""
    return ensure_sep("\n", s, n)


def abbr(S: str, max: int, ellipsis: Any = "...") -> str:
    """A text cut to a length, with an ellipsis in it; empty for no text."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    return S[: max - len(ellipsis)] + ellipsis if ellipsis else S[:max]


def abbrtask(S: str, max: int) -> str:
    """A task's name cut to a length: of its module as much as fits."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    module, _, name = S.rpartition(".")
    module = abbr(module, max - len(name) - 3, False)
    return f"{module}[.]{name}"


def indent(t: str, indent: int = 0, sep: str = "\n") -> str:
    """A text whose lines begin so many blanks further right."""
    return sep.join(" " * indent + line for line in t.split(sep))


def truncate(s: str, maxlen: int = 128, suffix: str = "...") -> str:
    """A text cut at the last word that fits."""
    if maxlen and len(s) >= maxlen:
        return s[:maxlen].rsplit(" ", 1)[0] + suffix
    return s


def pluralize(n: float, text: str, suffix: str = "s") -> str:
    """A word in the plural, unless there is one."""
    return text + suffix if n != 1 else text


def pretty(value: Any, width: int = 80, nl_width: int = 80, sep: str = "\n", **kw: Any) -> str:
    """A value for reading; a mapping over several lines."""
    if isinstance(value, dict):
        return f"{sep} {pformat(value, 4, nl_width)[1:]}"
    if isinstance(value, tuple):
        return f"{sep}{' ' * 4}{pformat(value, width=nl_width, **kw)}"
    return pformat(value, width=width, **kw)


def match_case(s: str, other: str) -> str:
    """A text in the case of another."""
    return s.upper() if other.isupper() else s.lower()


def simple_format(
    s: str, keys: Mapping[str, Any], pattern: re.Pattern[str] = RE_FORMAT, expand: str = r"\1"
) -> str:
    """A text with ``%h`` and the like replaced; ``%%`` stands for ``%``. Raises ValueError for an unknown one."""
    if not s:
        return s
    known = {"%": "%", **keys}

    def replaced(match: re.Match[str]) -> str:
        key = match.expand(expand)
        try:
            value = known[key]
        except KeyError:
            raise ValueError(UNKNOWN_SIMPLE_FORMAT_KEY.format(key, s)) from None
        return str(value() if callable(value) else value)

    return pattern.sub(replaced, s)


def remove_repeating_from_task(task_name: str, s: str) -> str:
    """A text in which the module of a task is named once only."""
    module = str(task_name).rpartition(".")[0]
    return remove_repeating(f"{module}.", s) if module else s


def remove_repeating(substr: str, s: str) -> str:
    """A text in which ``substr`` begins a name once only, where it stands first."""
    head, found, tail = s.partition(substr)
    # Not in the middle of a longer name: ``app.`` stays in ``webapp.``.
    return head + found + re.sub(rf"(?<![\w.-]){re.escape(substr)}", "", tail) if found else s


class WhateverIO(io.StringIO):
    """A ``StringIO`` that takes bytes too."""

    def __init__(self, v: Any = None, *a: Any, **kw: Any) -> None:
        super().__init__(v.decode() if isinstance(v, bytes) else v, *a, **kw)

    def write(self, data: Any) -> int:
        """Write text or bytes."""
        return super().write(data.decode() if isinstance(data, bytes) else data)
