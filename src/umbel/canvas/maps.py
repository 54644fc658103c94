"""One task for many arguments: ``map`` and ``starmap`` run them in one job, ``chunks`` in jobs of so many each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from umbel.canvas.groups import group
from umbel.canvas.lazy import regen
from umbel.canvas.signature import Signature
from umbel.core.textrepr import safe_repr

if TYPE_CHECKING:
    from umbel.canvas.outbox import Outbox

__all__ = ["_basemap", "chunks", "xmap", "xstarmap"]


class _basemap(Signature):  # noqa: N801 -- Celery's name
    """A task and the items it is called with, one after the other, in one job."""

    _task_name: ClassVar[str] = ""

    def __init__(self, task: Any, it: Iterable[Any], **options: Any) -> None:
        super().__init__(self._task_name, (), {"task": task, "it": regen(it)}, immutable=True, **options)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """One of these from its mapping."""
        return cls(d["kwargs"]["task"], d["kwargs"]["it"], app=app, **d["options"])

    def apply_async(  # type: ignore[override]
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Send the one job; it is routed as its task is."""
        arguments, merged = self._job(options)
        return self.type.apply_async((), arguments, **merged)

    def _start(
        self, outbox: Outbox, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Any:
        arguments, merged = self._job(options)
        return outbox.send(self, (), arguments, merged)

    def _job(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        merged = {
            **self._merge((), {}, {name: value for name, value in options.items() if value is not None})[2]
        }
        task = self.kwargs["task"]
        merged["route_name"] = merged.pop("route_name", None) or name_of(task)
        return {"task": task, "it": list(self.kwargs["it"])}, merged


@Signature.register_type()
class xmap(_basemap):  # noqa: N801 -- Celery's name
    """``[task(item) for item in it]``, in one job."""

    _task_name: ClassVar[str] = "celery.map"

    def __repr__(self) -> str:
        return f"[{name_of(self.kwargs['task'])}(x) for x in {safe_repr(self.kwargs['it'], 100)}]"


@Signature.register_type()
class xstarmap(_basemap):  # noqa: N801 -- Celery's name
    """``[task(*item) for item in it]``, in one job."""

    _task_name: ClassVar[str] = "celery.starmap"

    def __repr__(self) -> str:
        return f"[{name_of(self.kwargs['task'])}(*x) for x in {safe_repr(self.kwargs['it'], 100)}]"


@Signature.register_type()
class chunks(Signature):  # noqa: N801 -- Celery's name
    """A group of ``starmap`` jobs with up to ``n`` items each."""

    def __init__(self, task: Any, it: Iterable[Any], n: int, **options: Any) -> None:
        super().__init__(
            "celery.chunks", (), {"task": task, "it": regen(it), "n": n}, immutable=True, **options
        )

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """One of these from its mapping."""
        parts = d["kwargs"]
        return cls(parts["task"], parts["it"], parts["n"], app=app, **d["options"])

    def __call__(self, **options: Any) -> Any:
        """Send the jobs."""
        return self.apply_async(**options)

    def apply_async(  # type: ignore[override]
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Send the jobs; gives their ``GroupResult``. They are routed as their task is."""
        return self.group().apply_async(
            args or (), kwargs or {}, route_name=name_of(self.kwargs["task"]), **options
        )

    def group(self) -> Any:
        """The jobs as a group, made while it is read."""
        task, items = self.kwargs["task"], iter(self.kwargs["it"])
        return group(
            (xstarmap(task, part, app=self._app) for part in _parts(items, self.kwargs["n"])), app=self._app
        )

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: Any = None) -> Any:
        """Send the jobs of these arguments."""
        return cls(task, it, n, app=app)()


def name_of(task: Any) -> Any:
    """The name of a task that is given itself, by its signature, as a mapping, or by name."""
    if isinstance(task, dict):
        return task.get("task")
    return task if isinstance(task, str) else task.name


def _parts(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    for first in items:
        yield [first, *islice(items, size - 1)]
