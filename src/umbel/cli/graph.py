"""``umbel graph``: pictures of a worker's parts and of the fleet, in the dot language of Graphviz."""

from __future__ import annotations

import json
from functools import cached_property
from types import CodeType
from typing import TYPE_CHECKING, Any, Final

import click

from umbel.cli.command import command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from umbel.cli.context import CliContext

__all__ = ["Dot", "graph"]

_ALL: Final = {"shape": "box", "arrowhead": "vee", "style": "filled", "fontname": "HelveticaNeue"}
_NODE: Final = {"fillcolor": "palegreen3", "color": "palegreen4"}
_LEAF: Final = {"fillcolor": "palegreen1", "color": "palegreen2"}
_EDGE: Final = {"color": "darkseagreen4", "arrowcolor": "black", "arrowsize": "0.7"}
_BROKER: Final = {"shape": "circle", "fillcolor": "cadetblue3", "color": "cadetblue4", "height": "1"}
_BACKEND: Final = {
    "shape": "folder",
    "width": "2",
    "height": "1",
    "color": "black",
    "fillcolor": "peachpuff3",
}
_SLOT: Final = {
    "fillcolor": "lightcyan4",
    "fontcolor": "yellow",
    "shape": "oval",
    "fontsize": "10",
    "width": "0.3",
    "color": "black",
}
_INDENT: Final = " " * 4


class Dot:
    """A directed graph in the dot language."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def node(self, name: str, **attributes: str) -> None:
        """One thing."""
        self._lines.append(f"{json.dumps(name, ensure_ascii=False)} [{_attributes(attributes)}]")

    def edge(self, source: str, target: str, **attributes: str) -> None:
        """An arrow."""
        ends = " -> ".join(json.dumps(name, ensure_ascii=False) for name in (source, target))
        self._lines.append(f"{ends} [{_attributes({**_EDGE, **attributes})}]")

    def __str__(self) -> str:
        head = f"graph [{_attributes({'bgcolor': 'mintcream'})}]"
        return "\n".join(["digraph dependencies {", *(_INDENT + line for line in (head, *self._lines)), "}"])


def _attributes(given: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in {**_ALL, **given}.items()
    )


@click.group("graph", short_help="Draw a worker's parts, or the fleet, for Graphviz.")
def graph() -> None:
    """Draw a worker's parts, or the fleet, in the dot language of Graphviz."""


@command("bootsteps", click.Argument(["which"], nargs=-1), short_help="Draw a worker's parts.")
def _bootsteps(context: CliContext, /, which: tuple[str, ...]) -> None:
    """Draw a worker's parts, each with an arrow to those that it works with.

    ``worker`` and ``consumer``, which of Celery's two blueprints to draw, are accepted: here they are one.
    """
    from umbel.worker.parts import Parts

    dot = Dot()
    parts = {name: part.func.__code__ for name, part in vars(Parts).items() if _is_part(name, part)}
    edges = {
        name: [each for each in parts if each != name and each in set(_names(code))]
        for name, code in parts.items()
    }
    for name, wanted in edges.items():
        dot.node(name, **(_NODE if wanted else _LEAF))
    for name, wanted in edges.items():
        for each in wanted:
            dot.edge(name, each)
    context.echo(dot)


def _is_part(name: str, part: Any) -> bool:
    return isinstance(part, cached_property) and not name.startswith("_")


def _names(code: CodeType) -> Iterator[str]:
    """The attributes that a function asks for, those within it included."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


@command(
    "workers",
    click.Argument(["options"], nargs=-1, metavar="[NAME:VALUE]..."),
    short_help="Draw the fleet.",
)
def _workers(context: CliContext, /, options: tuple[str, ...]) -> None:
    """Draw the workers that are online with their slots, the broker and the result backend.

    Options: nodes:a,b,… and threads:2,4,… draw these instead; broker:URL and backend:URL; wmax:4 and tmax:3 bound how
    many workers and slots are drawn, 0 not at all; generic shows kinds instead of addresses; enumerate shows numbers
    instead of names.
    """
    app = context.app
    given = {name: value for name, _, value in (option.partition(":") for option in options)}
    if "nodes" in given:
        names = given["nodes"].split(",")
        slots = [int(count) for count in given.get("threads", "").split(",") if count]
    else:
        stats = app.control.inspect().stats() or {}
        names = list(stats)
        slots = [int(reply["pool"]["max-concurrency"]) for reply in stats.values()]
    backend = given.get("backend", app.backend.display_url if app.conf.result_backend else "")
    context.echo(_draw(names, slots, given.get("broker", app.broker.display_url), backend, given))


def _draw(
    names: Sequence[str], slots: Sequence[int], broker: str, backend: str, given: Mapping[str, str]
) -> Dot:
    dot = Dot()
    generic = "generic" in given
    stores = [("Broker", broker, _BROKER), ("Backend", backend, _BACKEND)]
    shown = [(_kind(what, url) if generic else url, scheme) for what, url, scheme in stores if url]
    for label, scheme in shown:
        dot.node(label, **scheme)
    workers = list(zip(names, [*slots, *[0] * len(names)], strict=False))
    numbered = "enumerate" in given
    thread = 0
    for name, count in _abridged(workers, "Worker", int(given.get("wmax", "4") or 0), numbered=numbered):
        dot.node(name, **_NODE)
        for label, _ in shown:
            dot.edge(name, label)
        each_slot = [(str(number), 0) for number in range(count)]
        for label, _ in _abridged(each_slot, "P", int(given.get("tmax", "3") or 0), numbered=numbered):
            thread += 1
            dot.node(f"thr-{thread}", **_SLOT, label=label)
            dot.edge(f"thr-{thread}", name, arrowhead="none", arrowtail="tee")
    return dot


def _kind(what: str, url: str) -> str:
    return f"{what} ({url.partition('://')[0]}://)"


def _abridged(
    found: Sequence[tuple[str, int]], what: str, most: int, *, numbered: bool
) -> list[tuple[str, int]]:
    """The first ones and the last, and for those in between one that says how many they are."""
    named = [
        (f"{what}{_subscript(i)}" if numbered else name, count) for i, (name, count) in enumerate(found, 1)
    ]
    if not most or len(named) <= most:
        return named
    left_out = len(named) - (most - 1)
    return [*named[: most - 2], (f"{what[0]}⎨…{_subscript(left_out)}⎬", 1), named[-1]]


def _subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


for _subcommand in (_bootsteps, _workers):
    graph.add_command(_subcommand)
