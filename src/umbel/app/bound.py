"""Classes of results that belong to one application: ``app.AsyncResult`` and its like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from umbel.results.documents import ResultBase

C = TypeVar("C", bound="type[ResultBase]")


def bound_to(app: Any, cls: C) -> C:
    """A class as ``cls`` whose instances are of ``app`` unless they are told otherwise.

    They are pickled as instances of ``cls``: where they are read there is another application.
    """

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        # AsyncResult takes its application by position too.
        if len(args) < 4:
            kwargs.setdefault("app", app)
        base.__init__(self, *args, **kwargs)

    def reduce(self: Any) -> tuple[Any, ...]:
        return cls, self.__reduce_args__()

    base: Any = cls
    members = {
        "__slots__": (),
        "__init__": init,
        "__reduce__": reduce,
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
        "bound_app": app,
    }
    return cast("C", type(cls.__name__, (base,), members))
