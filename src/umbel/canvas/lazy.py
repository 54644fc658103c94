"""Lists that are filled while they are read: the tasks of a workflow that was given as a generator.

A generator is never read further than one element ahead of what was asked for, so that its first tasks are sent while
it is still making the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsIndex, TypeVar, overload

__all__ = ["Regen", "as_list", "holds_at_least", "is_sequence", "regen"]

T = TypeVar("T")


class Regen(list[T]):
    """The elements of an iterable as a list, taken from it when they are first asked for, and kept.

    What looks at the whole (its length, a comparison) reads it to its end.
    """

    def __init__(self, source: Iterable[T]) -> None:
        super().__init__()
        self._source: Iterator[T] | None = iter(source)

    @property
    def done(self) -> bool:
        """Whether everything there is has been read."""
        return self._source is None

    def pull(self, count: int | None = None) -> None:
        """Read until ``count`` elements are here; None: all."""
        while self._source is not None and (count is None or list.__len__(self) < count):
            try:
                self.append(next(self._source))
            except StopIteration:
                self._source = None

    def map(self, change: Any) -> None:
        """Have every element changed, those that are still to come included."""
        self[:] = [change(element) for element in list.__iter__(self)]
        if self._source is not None:
            self._source = map(change, self._source)

    def __iter__(self) -> Iterator[T]:
        index = 0
        while True:
            self.pull(index + 1)
            if index >= list.__len__(self):
                return
            yield list.__getitem__(self, index)
            index += 1

    @overload
    def __getitem__(self, index: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) or index < 0:
            self.pull()
        else:
            # One further: whether there is more is what the reader asks next.
            self.pull(index + 2)
        return super().__getitem__(index)

    def __len__(self) -> int:
        self.pull()
        return super().__len__()

    def __bool__(self) -> bool:
        self.pull(1)
        return list.__len__(self) > 0

    def __eq__(self, other: object) -> bool:
        self.pull()
        if isinstance(other, Regen):
            other.pull()
        return list.__eq__(self, other)

    __hash__ = None

    def __contains__(self, element: object) -> bool:
        return any(own == element for own in self)

    def __repr__(self) -> str:
        self.pull()
        return super().__repr__()

    def __reduce__(self) -> Any:
        return list, (list(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # The source can be read once only: a copy of it would take from this.
        return self


def regen(iterable: Any) -> Any:
    """A list or tuple as it is; anything else that can be iterated as a list that is filled when it is read."""
    return iterable if isinstance(iterable, (list, tuple)) else Regen(iterable)


def holds_at_least(tasks: Any, count: int) -> bool:
    """Whether there are so many elements, without reading a generator any further."""
    if isinstance(tasks, Regen):
        tasks.pull(count)
        return list.__len__(tasks) >= count
    return len(tasks) >= count


def is_sequence(value: Any) -> bool:
    """Whether a value is to be taken as several: iterable, and neither a mapping nor text."""
    return isinstance(value, Iterable) and not isinstance(value, (Mapping, str, bytes))


def as_list(value: Any) -> list[Any] | None:
    """Links as a list: None stays None, a list or tuple is copied, anything else is its one member."""
    if value is None:
        return None
    return list(value) if isinstance(value, (list, tuple)) else [value]
