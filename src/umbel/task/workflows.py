"""What a task has to do with workflows: signatures of many calls, and taking its own place in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from umbel.canvas.lazy import as_list
from umbel.canvas.signature import Signature, kind_of, maybe_signature, new_signature
from umbel.errors import Ignore, ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Iterable

    from umbel.app import Umbel
    from umbel.canvas.maps import chunks, xmap, xstarmap
    from umbel.execution.context import Context
    from umbel.results.base import ResultBackend

__all__ = ["Workflows"]


class Workflows:
    """The part of a task that has to do with workflows."""

    if TYPE_CHECKING:

        @property
        def app(self) -> Umbel:
            """Its application."""

        @property
        def backend(self) -> ResultBackend:
            """Where its results are kept."""

        @property
        def request(self) -> Context:
            """The run that this is."""

    def chunks(self, it: Iterable[Any], n: int) -> chunks:
        """A signature that calls the task with each item of ``it``, a tuple of arguments, in jobs of ``n`` items."""
        made: chunks = new_signature("chunks", self._signature(), it, n, app=self.app)
        return made

    def map(self, it: Iterable[Any]) -> xmap:
        """A signature that calls the task with each item of ``it``, one after the other in one job."""
        made: xmap = new_signature("xmap", self._signature(), it, app=self.app)
        return made

    def starmap(self, it: Iterable[Any]) -> xstarmap:
        """A signature that calls the task with the arguments in each item of ``it``, one after the other in one job."""
        made: xstarmap = new_signature("xstarmap", self._signature(), it, app=self.app)
        return made

    def _signature(self) -> Signature:
        return Signature(self, app=self.app)

    def replace(self, sig: Any) -> Any:
        """End this run, and have ``sig`` take its place in the workflow: its id, its links, its chain, its chord.

        ``return self.replace(other.s(1))``. Nothing after it runs.

        Args:
            sig: any signature. Of a group the result is the list of its tasks' results.

        Raises:
            Ignore: always, for the worker to know; when it runs in place the result of ``sig`` is returned instead.
            ImproperlyConfigured: ``sig`` belongs to a chord already, or is an empty chain.
        """
        if "chord" in sig.options:
            raise ImproperlyConfigured("A signature replacing a task must not be part of a chord")
        if kind_of(sig) == "chain" and not sig.tasks:
            raise ImproperlyConfigured("Cannot replace with an empty chain")
        request = self.request
        sig = self._with_one_end(sig)
        _take_links(sig, request)
        sig.freeze(request.id)
        nesting = (request.replaced_task_nesting or 0) + 1
        sig.set(
            chord=request.chord,
            group_id=request.group,
            group_index=request.group_index,
            root_id=request.root_id,
            replaced_task_nesting=nesting,
        )
        for step in sig.tasks if kind_of(sig) == "chain" else ():
            step.set(replaced_task_nesting=nesting)
        for step in reversed(request.chain or []):
            sig |= maybe_signature(step, app=self.app, clone=True).set(replaced_task_nesting=nesting)
        return self.on_replace(sig)

    def _with_one_end(self, sig: Any) -> Any:
        """The signature with a single task at its end, which takes this one's id and links."""
        if kind_of(sig) == "group":
            return sig | self._collect()
        if kind_of(sig) == "chain" and kind_of(sig.tasks[-1]) == "group":
            sig.tasks = [*sig.tasks[:-1], sig.tasks[-1] | self._collect()]
        return sig

    def _collect(self) -> Signature:
        return self.app.tasks["celery.accumulate"].s(index=0)

    def on_replace(self, sig: Any) -> Any:
        """Called with what takes this task's place; for subclasses, which call it too."""
        if self.request.is_eager:
            return sig.apply().get(disable_sync_subtasks=False)
        sig.delay()
        raise Ignore("Replaced by new task")

    def add_to_chord(self, sig: Signature, lazy: bool = False) -> Any:
        """Add a task to the chord that this one is a part of: the body waits for it too.

        Args:
            sig: what to add.
            lazy: do not send it: the caller will.

        Raises:
            ValueError: this task is part of no chord.
        """
        request = self.request
        if not request.chord:
            raise ValueError("Current task is not member of any chord")
        sig.set(
            group_id=request.group,
            group_index=request.group_index,
            chord=request.chord,
            root_id=request.root_id,
        )
        sig.freeze()
        # Before it is sent: a part that ends must not find the chord complete without it.
        self.backend.extend_chord(str(request.group))
        return sig if lazy else sig.delay()


def _take_links(sig: Any, request: Context) -> None:
    """Have a signature followed by what was to follow a request."""
    for callback in as_list(request.callbacks) or ():
        sig.link(callback)
    for errback in as_list(request.errbacks) or ():
        sig.link_error(errback)
    links = as_list(sig.options.pop("link", None)) if kind_of(sig) == "chain" else None
    if links:
        sig.tasks[-1].extend_list_option("link", links)
