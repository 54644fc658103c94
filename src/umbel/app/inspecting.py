"""``app.control.inspect()``: questions to the workers that run now, Umbel's and Celery's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from umbel.app.application import Umbel

__all__ = ["Inspect", "flatten_reply"]

#: What workers answer: by the worker's name.
Answers = dict[str, Any] | None


def flatten_reply(reply: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The answers of all workers in one mapping; a warning where two workers have the same name."""
    nodes: dict[str, Any] = {}
    seen: set[str] = set()
    doubled: list[str] = []
    for item in reply:
        doubled += [name for name in item if name in seen]
        seen.update(item)
        nodes.update(item)
    if doubled:
        import warnings

        from umbel.errors import DuplicateNodenameWarning

        names = ", ".join(sorted(doubled))
        warnings.warn(
            DuplicateNodenameWarning(
                f"Received multiple replies from node {'name' if len(doubled) == 1 else 'names'}: {names}.\n"
                "Please make sure you give each node a unique nodename using the celery worker `-n` option."
            ),
            stacklevel=3,
        )
    return nodes


class Inspect:
    """Questions to workers.

    Args:
        destination: names of workers, or one name, whose own answer is then given; None: all.
        timeout: seconds to wait for the next answer.
        callback: called with each answer as it arrives.
        connection: accepted as Celery's.
        app: the application.
        limit: how many answers to wait for.
        pattern, matcher: a ``glob`` or ``pcre`` pattern of names.

    Every question gives a mapping of worker names to answers, or None when nobody answered in time.
    """

    app: Umbel

    def __init__(
        self,
        destination: str | Sequence[str] | None = None,
        timeout: float = 1.0,
        callback: Callable[[dict[str, Any]], object] | None = None,
        connection: object = None,
        app: Umbel | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        if app is not None:
            self.app = app
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.connection = connection
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def _prepare(self, reply: list[dict[str, Any]] | None) -> Answers:
        if not reply:
            return None
        by_node = flatten_reply(reply)
        if isinstance(self.destination, str) and not self.pattern:
            answer: Answers = by_node.get(self.destination)
            return answer
        return by_node

    def _request(self, command: str, **kwargs: Any) -> Answers:
        """Ask by the name of a command, an application's own too."""
        destination = [self.destination] if isinstance(self.destination, str) else self.destination
        return self._prepare(
            self.app.control.broadcast(
                command,
                arguments=kwargs,
                destination=list(destination) if destination is not None else None,
                callback=self.callback,
                connection=self.connection,
                limit=self.limit,
                timeout=self.timeout,
                reply=True,
                pattern=self.pattern,
                matcher=self.matcher,
            )
        )

    def report(self) -> Answers:
        """What a bug report should tell."""
        return self._request("report")

    def clock(self) -> Answers:
        """The logical clock: ``{"clock": n}``."""
        return self._request("clock")

    def active(self, safe: bool | None = None) -> Answers:
        """The tasks that run; with ``safe`` their arguments as text."""
        return self._request("active", safe=safe)

    def scheduled(self, safe: bool | None = None) -> Answers:
        """The tasks that wait in workers for their time."""
        return self._request("scheduled")

    def reserved(self, safe: bool | None = None) -> Answers:
        """The tasks that workers have taken and not begun."""
        return self._request("reserved")

    def stats(self) -> Answers:
        """Statistics."""
        return self._request("stats")

    def revoked(self) -> Answers:
        """The ids of revoked tasks."""
        return self._request("revoked")

    def registered(self, *taskinfoitems: str) -> Answers:
        """The tasks that workers know, each with these attributes."""
        return self._request("registered", taskinfoitems=taskinfoitems)

    registered_tasks = registered

    def ping(self, destination: Sequence[str] | None = None) -> Answers:
        """Who is there: ``{"ok": "pong"}``."""
        if destination:
            self.destination = destination
        return self._request("ping")

    def active_queues(self) -> Answers:
        """The queues that workers take from."""
        return self._request("active_queues")

    def query_task(self, *ids: str | Sequence[str]) -> Answers:
        """Where tasks are: ``{id: [state, info]}``, for those that a worker has in hand."""
        # As Celery: a single list is taken for the ids themselves.
        if len(ids) == 1 and isinstance(ids[0], (list, tuple)):
            return self._request("query_task", ids=list(ids[0]))
        return self._request("query_task", ids=list(ids))

    def conf(self, with_defaults: bool = False) -> Answers:
        """The settings, without their secrets."""
        return self._request("conf", with_defaults=with_defaults)

    def hello(self, from_node: str, revoked: Any = None) -> Answers:
        """Exchange revoked ids and clocks, as a worker that starts does."""
        return self._request("hello", from_node=from_node, revoked=revoked)

    def memsample(self) -> Answers:
        """Measure memory."""
        return self._request("memsample")

    def memdump(self, samples: int = 10) -> Answers:
        """Tell memory."""
        return self._request("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Answers:
        """Draw a graph of objects, in a file at the worker."""
        return self._request("objgraph", num=n, max_depth=max_depth, type=type)
