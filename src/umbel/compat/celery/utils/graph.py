"""Graphs of what depends on what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from graphlib import CycleError as _CycleError
from graphlib import TopologicalSorter
from itertools import chain
from typing import Any

__all__ = ("DOT", "CycleError", "DependencyGraph", "GraphFormatter")


class DOT:
    """Parts of the dot language."""

    HEAD = "{IN}{type} {id} {{\n{INp}graph [{attrs}]\n"
    ATTR = "{name}={value}"
    NODE = '{INp}"{0}" [{attrs}]\n'
    EDGE = '{INp}"{0}" {dir} "{1}" [{attrs}]\n'
    ATTRSEP = ", "
    DIRS = {"graph": "--", "digraph": "->"}
    TAIL = "{IN}}}\n"


class CycleError(Exception):
    """What depends on itself has no order."""


class DependencyGraph:
    """Objects and what each of them depends on."""

    def __init__(self, it: Iterable[tuple[Any, Any]] | None = None, formatter: Any = None) -> None:
        self.formatter = formatter or GraphFormatter()
        self.adjacent: dict[Any, list[Any]] = {}
        if it is not None:
            self.update(it)

    def add_arc(self, obj: Any) -> None:
        """Add an object."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, A: Any, B: Any) -> None:
        """``A`` depends on ``B``."""
        self[A].append(B)

    def connect(self, graph: DependencyGraph) -> None:
        """Add another graph."""
        self.adjacent.update(graph.adjacent)

    def topsort(self) -> list[Any]:
        """The objects, each after those it depends on. Raises CycleError."""
        try:
            return list(TopologicalSorter(self.adjacent).static_order())
        except _CycleError as error:
            raise CycleError(f"Cycle: {error.args[1]}") from error

    def valency_of(self, obj: Any) -> int:
        """How many objects lie below one."""
        try:
            below = [len(self[obj])]
        except KeyError:
            return 0
        return sum(below + [self.valency_of(each) for each in self[obj]])

    def update(self, it: Iterable[tuple[Any, Any]]) -> None:
        """Add objects with what they depend on."""
        pairs = list(it)
        for obj, _ in pairs:
            self.add_arc(obj)
        for obj, wanted in pairs:
            for each in wanted:
                self.add_edge(obj, each)

    def edges(self) -> Iterable[Any]:
        """The objects that depend on something."""
        return (obj for obj, wanted in self.items() if wanted)

    def to_dot(self, fh: Any, formatter: Any = None) -> None:
        """Write it in the dot language."""
        draw = formatter or self.formatter
        seen = set()
        fh.write(draw.head())
        for obj, wanted in self.items():
            if not wanted and obj not in seen:
                seen.add(obj)
                fh.write(draw.terminal_node(obj))
            for each in wanted:
                for node in (obj, each):
                    if node not in seen:
                        seen.add(node)
                        fh.write(draw.node(node))
                fh.write(draw.edge(obj, each))
        fh.write(draw.tail())

    def format(self, obj: Any) -> Any:
        """The name of an object."""
        return self.formatter.label(obj)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def __getitem__(self, node: Any) -> list[Any]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, obj: Any) -> bool:
        return obj in self.adjacent

    def items(self) -> Iterable[tuple[Any, list[Any]]]:
        """Objects and what they depend on."""
        return self.adjacent.items()

    iteritems = items

    def __repr__(self) -> str:
        return "\n".join(self._line(node) for node in self)

    def _line(self, obj: Any, level: int = 0) -> str:
        lines = [f"{' ' * (level * 4)}{obj}({self.valency_of(obj)})"]
        if obj in self:
            lines += [self._line(each, level + 1) for each in self[obj]]
        return "\n".join(lines)


class GraphFormatter:
    """How a graph is written in the dot language."""

    _attrs = DOT.ATTRSEP
    scheme: dict[str, Any] = {
        "shape": "box",
        "arrowhead": "vee",
        "style": "filled",
        "fontname": "HelveticaNeue",
    }
    edge_scheme: dict[str, Any] = {"color": "darkseagreen4", "arrowcolor": "black", "arrowsize": 0.7}
    node_scheme: dict[str, Any] = {"fillcolor": "palegreen3", "color": "palegreen4"}
    term_scheme: dict[str, Any] = {"fillcolor": "palegreen1", "color": "palegreen2"}
    graph_scheme: dict[str, Any] = {"bgcolor": "mintcream"}

    def __init__(
        self,
        root: Any = None,
        type: str | None = None,
        id: str | None = None,
        indent: int = 0,
        inw: str = " " * 4,
        **scheme: Any,
    ) -> None:
        self.id = id or "dependencies"
        self.root = root
        self.type = type or "digraph"
        self.direction = DOT.DIRS[self.type]
        self.IN = inw * (indent or 0)
        self.INp = self.IN + inw
        self.scheme = {**self.scheme, **scheme}
        self.graph_scheme = {**self.graph_scheme, "root": self.label(self.root)}

    def attr(self, name: str, value: Any) -> str:
        """One attribute."""
        return DOT.ATTR.format(name=name, value=f'"{value}"')

    def attrs(self, d: dict[str, Any], scheme: dict[str, Any] | None = None) -> str:
        """Attributes, over those of the scheme."""
        merged = chain({**self.scheme, **(scheme or {}), **d}.items())
        return DOT.ATTRSEP.join(self.attr(name, value) for name, value in merged)

    def head(self, **attrs: Any) -> str:
        """The first lines."""
        return DOT.HEAD.format(
            id=self.id, type=self.type, attrs=self.attrs(attrs, self.graph_scheme), IN=self.IN, INp=self.INp
        )

    def tail(self) -> str:
        """The last line."""
        return DOT.TAIL.format(IN=self.IN)

    def label(self, obj: Any) -> Any:
        """The name of an object."""
        return obj

    def node(self, obj: Any, **attrs: Any) -> str:
        """An object."""
        return self.draw_node(obj, self.node_scheme, attrs)

    def terminal_node(self, obj: Any, **attrs: Any) -> str:
        """An object that depends on nothing."""
        return self.draw_node(obj, self.term_scheme, attrs)

    def edge(self, a: Any, b: Any, **attrs: Any) -> str:
        """An arrow."""
        return self.draw_edge(a, b, **attrs)

    def draw_edge(self, a: Any, b: Any, scheme: Any = None, attrs: Any = None) -> str:
        """An arrow."""
        return DOT.EDGE.format(
            self.label(a),
            self.label(b),
            dir=self.direction,
            attrs=self.attrs(attrs or {}, scheme or self.edge_scheme),
            INp=self.INp,
        )

    def draw_node(self, obj: Any, scheme: Any = None, attrs: Any = None) -> str:
        """An object."""
        return DOT.NODE.format(self.label(obj), attrs=self.attrs(attrs or {}, scheme), INp=self.INp)
