"""Colours in the terminal."""

from __future__ import annotations

from typing import Any

from umbel.compat.helpers.encoding import safe_str

__all__ = ("colored",)

BLACK, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, WHITE = range(8)
OP_SEQ = "\x1b[%dm"
_COLORS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
RESET_SEQ = "\x1b[0m"
COLOR_SEQ = "\x1b[1;%dm"


def fg(s: int) -> str:
    """The sequence that sets a colour."""
    return COLOR_SEQ % s


class colored:
    """Text in colour: ``str(colored().red("no ", colored().bold("way")))``; plain with ``enabled=False``."""

    def __init__(self, *s: Any, **kwargs: Any) -> None:
        self.s = s
        self.enabled = kwargs.get("enabled", True)
        self.op = kwargs.get("op", "")
        self.names = {name: getattr(self, name) for name in _COLORS}

    def __add__(self, other: object) -> str:
        return str(self) + str(other)

    def __str__(self) -> str:
        text = "".join(str(part) if isinstance(part, colored) else safe_str(part) for part in self.s)
        return f"{self.op}{text}{RESET_SEQ}" if self.op and self.enabled else safe_str(text)

    def __repr__(self) -> str:
        return repr(self.no_color())

    def node(self, s: Any, op: Any) -> colored:
        """Text with an operation."""
        return self.__class__(*s, enabled=self.enabled, op=op)

    def no_color(self) -> str:
        """The text without colours."""
        return "".join(part.no_color() if isinstance(part, colored) else str(part) for part in self.s)

    def reset(self, *s: Any) -> colored:
        """Plain text."""
        return self.node(s or [""], RESET_SEQ)

    def embed(self) -> str:
        """The beginning, without the end."""
        return "".join([self.op if self.enabled else "", *(str(part) for part in self.s)])


def _color(number: int) -> Any:
    return lambda self, *s: self.node(s, fg(number))


def _operation(number: int) -> Any:
    return lambda self, *s: self.node(s, OP_SEQ % number)


for _index, _name in enumerate(_COLORS):
    setattr(colored, _name, _color(30 + _index))
    setattr(colored, f"i{_name}", _color(40 + _index))
for _name, _number in (("bold", 1), ("underline", 4), ("blink", 5), ("reverse", 7), ("bright", 8)):
    setattr(colored, _name, _operation(_number))


def supports_images() -> bool:
    """Whether the terminal shows pictures; Umbel shows none."""
    return False
