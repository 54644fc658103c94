"""The tree of the tasks that a task has sent, and they in turn."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from umbel.core import states
from umbel.errors import IncompleteStream
from umbel.results.attributes import TaskAttributes
from umbel.results.sets import GroupResult

if TYPE_CHECKING:
    from collections.abc import Iterator


class TaskFamily(TaskAttributes):
    """A result with the results of the tasks that its task has sent."""

    __slots__ = ()

    def collect(self, intermediate: bool = False, **options: Any) -> Iterator[tuple[Any, Any]]:
        """Yield (result, value) of this task and of all that it sent, waiting for each; see ``get`` for the options.

        With a task that sends tasks, each of which sends one that squares its number:

            >>> [value for _, value in result.collect() if isinstance(value, int)]
            [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]
        """
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**options)

    def get_leaf(self) -> Any:
        """The value of the last task of the tree."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield (parent, result) through the tree of what was sent.

        Raises IncompleteStream at a task that has not ended, unless ``intermediate``.
        """
        waiting: deque[tuple[Any, Any]] = deque([(None, self)])
        while waiting:
            parent, node = waiting.popleft()
            yield parent, node
            if node.ready():
                waiting.extend((node, child) for child in node.children or ())
            elif not intermediate:
                raise IncompleteStream

    @property
    def graph(self) -> dict[Any, list[Any]]:
        """Every result of the tree with those that it was sent by."""
        return self.build_graph()

    def build_graph(self, intermediate: bool = False, formatter: object = None) -> dict[Any, list[Any]]:
        """Every result of the tree with the results of the tasks that it has sent. ``formatter`` is Celery's."""
        graph: dict[Any, list[Any]] = {}
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.setdefault(node, [])
            if parent is not None:
                graph[parent].append(node)
        return graph

    def _throw_of_header(self) -> None:
        """Of a chord that failed raise what its part raised, rather than that there was one."""
        if self._meta()["status"] not in states.PROPAGATE_STATES:
            return
        for header in self._headers():
            header.maybe_throw()

    def _headers(self) -> list[GroupResult]:
        """The headers of the chords that come before it, the first one first."""
        found: list[GroupResult] = []
        node = self.parent
        while node is not None:
            if isinstance(node, GroupResult):
                found.insert(0, node)
            node = node.parent
        return found
