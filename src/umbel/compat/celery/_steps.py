"""Steps of a program's own that a worker starts and stops: ``app.steps["worker"].add(MyStep)``.

Umbel's worker is not made of such steps. It runs those of the application beside its own parts: steps of the worker
get the worker, those of the consumer an object with ``connection``, ``app``, ``hostname`` and ``pool``. The names of
Celery's own steps may stand in ``requires``; they are there, and do nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from threading import Event
from typing import Any, ClassVar

from umbel.compat.helpers.imports import symbol_by_name

from .utils.graph import DependencyGraph, GraphFormatter
from .utils.imports import instantiate
from .utils.log import get_logger

__all__ = ("Blueprint", "ConsumerStep", "StartStopStep", "Step")

logger = get_logger(__name__)

RUN = 0x1
CLOSE = 0x2
TERMINATE = 0x3


def _label(s: Any) -> str:
    return str(s.name).rsplit(".", 1)[-1]


class StepFormatter(GraphFormatter):
    """How a blueprint's graph is drawn."""

    def label(self, obj: Any) -> Any:
        """The name of a step."""
        return obj and _label(obj)


class StepType(type):
    """Gives each step a name: its own, or that of its class."""

    name: Any
    requires: Any

    def __new__(mcs, name: str, bases: Any, attrs: dict[str, Any]) -> Any:
        module = attrs.get("__module__")
        path = f"{module}.{name}" if module else name
        return super().__new__(
            mcs, name, bases, {**attrs, "__qualname__": path, "name": attrs.get("name") or path}
        )

    def __str__(cls) -> str:
        return str(cls.name)

    def __repr__(cls) -> str:
        return f"step:{cls.name}{{{cls.requires!r}}}"


class Step(metaclass=StepType):
    """Something that is made when a worker is made."""

    name: Any = None
    label: ClassVar[str | None] = None
    conditional: ClassVar[bool] = False
    #: Steps, or their paths, that come before it.
    requires: Any = ()
    #: Whether it comes after all others.
    last: ClassVar[bool] = False
    enabled: bool = True

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        pass

    def include_if(self, parent: Any) -> bool:
        """Whether it is wanted."""
        return self.enabled

    def instantiate(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what a path names."""
        return instantiate(name, *args, **kwargs)

    def _should_include(self, parent: Any) -> tuple[bool, Any]:
        return (True, self.create(parent)) if self.include_if(parent) else (False, None)

    def include(self, parent: Any) -> bool:
        """Make it, if it is wanted."""
        return self._should_include(parent)[0]

    def create(self, parent: Any) -> Any:
        """Make what it stands for."""

    def __repr__(self) -> str:
        return f"<step: {self.alias}>"

    @property
    def alias(self) -> str:
        """A short name."""
        return self.label or _label(self)

    def info(self, obj: Any) -> Any:
        """What ``inspect stats`` says of it."""


class StartStopStep(Step):
    """Something that is started and stopped with the worker."""

    #: What ``create`` made.
    obj: Any = None

    def start(self, parent: Any) -> Any:
        """Start it."""
        return self.obj.start() if self.obj else None

    def stop(self, parent: Any) -> Any:
        """Stop it."""
        return self.obj.stop() if self.obj else None

    def close(self, parent: Any) -> Any:
        """Called before the steps are stopped."""

    def terminate(self, parent: Any) -> Any:
        """Stop it at once."""
        return self.obj.terminate() if self.obj and "terminate" in dir(self.obj) else self.stop(parent)

    def include(self, parent: Any) -> bool:
        """Make it, if it is wanted, and have it started."""
        wanted, made = self._should_include(parent)
        if wanted:
            self.obj = made
            parent.steps.append(self)
        return wanted


class ConsumerStep(StartStopStep):
    """Takes messages that are no tasks: ``get_consumers`` gives ``kombu.Consumer`` objects."""

    requires: Any = ("celery.worker.consumer:Connection",)
    consumers: Any = None

    def get_consumers(self, channel: Any) -> Any:
        """The consumers. Subclasses define it."""
        raise NotImplementedError("missing get_consumers")

    def start(self, c: Any) -> None:
        """Begin to take messages."""
        self.consumers = self.get_consumers(c.connection.channel())
        for consumer in self.consumers or ():
            consumer.consume()

    def stop(self, c: Any) -> None:
        """Take no more."""
        for consumer in self.consumers or ():
            consumer.cancel()

    shutdown = stop


def _taken(step: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that a step's constructor takes."""
    parameters = inspect.signature(step.__init__).parameters.values()
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
        return dict(options)
    return {each.name: options[each.name] for each in parameters if each.name in options}


class Blueprint:
    """Steps in the order of what they require, for one object."""

    GraphFormatter = StepFormatter
    name: Any = None
    state: Any = None
    started = 0
    default_steps: Any = frozenset()
    state_to_name: ClassVar[dict[int, str]] = {
        0: "initializing",
        RUN: "running",
        CLOSE: "closing",
        TERMINATE: "terminating",
    }

    def __init__(
        self,
        steps: Any = None,
        name: Any = None,
        on_start: Any = None,
        on_close: Any = None,
        on_stopped: Any = None,
    ) -> None:
        self.name = name or self.name or f"{type(self).__module__}.{type(self).__qualname__}"
        self.types = set(steps or ()) | set(self.default_steps)
        self.on_start = on_start
        self.on_close = on_close
        self.on_stopped = on_stopped
        self.shutdown_complete = Event()
        self.steps: dict[str, Any] = {}
        self.order: list[Any] = []

    @property
    def alias(self) -> str:
        """A short name."""
        return _label(self)

    def human_state(self) -> str:
        """How far it is, in a word."""
        return self.state_to_name[self.state or 0]

    def __getitem__(self, name: str) -> Any:
        return self.steps[name]

    def claim_steps(self) -> dict[str, Any]:
        """The steps by name."""
        return dict(self.load_step(step) for step in self.types)

    def load_step(self, step: Any) -> tuple[str, Any]:
        """A step by its path, with its name."""
        found = symbol_by_name(step)
        return found.name, found

    def apply(self, parent: Any, **kwargs: Any) -> Blueprint:
        """Make the steps for an object, whose list ``steps`` they join; each gets of the keywords what it takes."""
        self.steps = self.claim_steps()
        self.order = []
        for made in self._finalize_steps(self.steps):
            step = made(parent, **_taken(made, kwargs))
            self.steps[step.name] = step
            self.order.append(step)
        for step in self.order:
            step.include(parent)
        return self

    def _finalize_steps(self, steps: dict[str, Any]) -> list[Any]:
        self._add_required(steps)
        last = next((step for step in steps.values() if step.last), None)
        graph = DependencyGraph(
            ((step, step.requires) for step in steps.values()), formatter=self.GraphFormatter(root=last)
        )
        if last is not None:
            for step in list(graph):
                if step is not last:
                    graph.add_edge(last, step)
        self.graph = graph
        return graph.topsort()

    @staticmethod
    def _add_required(steps: dict[str, Any]) -> None:
        """Put paths in the place of what they name, and add what is required by what is there."""
        waiting = list(steps.values())
        while waiting:
            step = waiting.pop()
            step.requires = [symbol_by_name(each) for each in step.requires]
            for each in step.requires:
                if each.name not in steps:
                    steps[each.name] = each
                    waiting.append(each)

    def start(self, parent: Any) -> None:
        """Start the steps."""
        self.state = RUN
        if self.on_start:
            self.on_start()
        for number, step in enumerate(filter(None, parent.steps), 1):
            self.started = number
            step.start(parent)

    def info(self, parent: Any) -> dict[str, Any]:
        """What the steps say of themselves."""
        return {key: value for step in parent.steps for key, value in (step.info(parent) or {}).items()}

    def close(self, parent: Any) -> None:
        """Tell the steps that they will be stopped."""
        if self.on_close:
            self.on_close()
        self.send_all(parent, "close", "closing", reverse=False)

    def restart(
        self, parent: Any, method: str = "stop", description: str = "restarting", propagate: bool = False
    ) -> None:
        """Stop the steps, in reverse."""
        self.send_all(parent, method, description, propagate=propagate)

    def send_all(
        self,
        parent: Any,
        method: str,
        description: str | None = None,
        reverse: bool = True,
        propagate: bool = True,
        args: Iterable[Any] = (),
    ) -> None:
        """Call a method of every step that has it."""
        for step in reversed(parent.steps) if reverse else list(parent.steps):
            function = getattr(step, method, None) if step else None
            if function is None:
                continue
            try:
                function(parent, *args)
            except Exception as error:
                if propagate:
                    raise
                logger.exception("Error on %s %s: %r", description or method, step.alias, error)  # noqa: TRY401

    def stop(self, parent: Any, close: bool = True, terminate: bool = False) -> None:
        """Stop the steps, in reverse. Safe twice."""
        if self.state in {CLOSE, TERMINATE}:
            return
        if self.state == RUN and self.started == len(parent.steps):
            self.close(parent)
            self.state = CLOSE
            method = "terminate" if terminate else "stop"
            self.restart(parent, method, description=f"{method}ing", propagate=False)
            if self.on_stopped:
                self.on_stopped()
        self.state = TERMINATE
        self.shutdown_complete.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until they are stopped."""
        self.shutdown_complete.wait(timeout)

    def connect_with(self, other: Blueprint) -> None:
        """Put another's graph into this one's."""
        self.graph.adjacent.update(other.graph.adjacent)
        self.graph.add_edge(type(other.order[0]), type(self.order[-1]))
