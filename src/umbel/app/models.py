"""``@app.task(pydantic=True)``: arguments arrive as the models that annotations name, results leave as data."""

from __future__ import annotations

import inspect
from functools import wraps
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from umbel.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import BaseModel

__all__ = ["ModelAdapter"]


class ModelAdapter:
    """Turns a function that takes and gives pydantic models into one that takes and gives what a message can hold.

    Args:
        function: the body of the task.
        strict: ``pydantic_strict``: no conversions between types.
        context: ``pydantic_context``: what validators are given.
        dump: ``pydantic_dump_kwargs``: arguments of ``model_dump``; ``mode`` is ``json`` unless they say otherwise.
        bound: the first parameter is the task, which calls do not name.

    Raises:
        ImproperlyConfigured: pydantic is not installed.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        strict: bool = False,
        context: Mapping[str, Any] | None = None,
        dump: Mapping[str, Any] | None = None,
        bound: bool = False,
    ) -> None:
        self._bound = bound
        self._base = _base_model()
        self._function = function
        self._signature = inspect.signature(function)
        try:
            hints = get_type_hints(function)
        except (NameError, AttributeError, TypeError):
            # Names that exist for type checkers only; annotations that are classes still count.
            hints = {name: each.annotation for name, each in self._signature.parameters.items()}
            hints["return"] = self._signature.return_annotation
        models = {name: self._model_in(hint) for name, hint in hints.items()}
        self._models = {name: model for name, model in models.items() if model is not None}
        self._strict = strict
        self._context = dict(context or {})
        self._dump_options = {"mode": "json", **(dump or {})}

    def wrap(self) -> Callable[..., Any]:
        """The body that a worker calls."""
        function = self._function
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def arun(*args: Any, **kwargs: Any) -> Any:
                bound = self._validated(args, kwargs)
                return self._dumped(await function(*bound.args, **bound.kwargs))

            return arun

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            bound = self._validated(args, kwargs)
            return self._dumped(function(*bound.args, **bound.kwargs))

        return run

    def dump_arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a call with their models as data, which the worker makes models again.

        A model that would not come back as it is stays a model, which the serializer may refuse: a secret that is
        masked as data, say, a field left out of it, or a model of another class than the annotation names.
        """
        kinds = inspect.Parameter
        places = [
            name
            for name, each in self._signature.parameters.items()
            if each.kind in {kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD}
        ]
        names = [*places[self._bound :], *("" for _ in args)]
        return (
            tuple(map(self._sendable, names, args)),
            {name: self._sendable(name, value) for name, value in kwargs.items()},
        )

    def _sendable(self, name: str, value: Any) -> Any:
        model = self._models.get(name)
        if model is None or not isinstance(value, self._base):
            return value
        try:
            data = self._dump(value)
            same = model.model_validate(data, strict=self._strict, context=self._context) == value
        except Exception:  # validators are the user's, and some work on a worker only
            return value
        return data if same else value

    def _model_in(self, hint: Any) -> type[BaseModel] | None:
        """The model that an annotation names, alone or as ``Model | None``."""
        if get_origin(hint) in {Union, UnionType}:
            rest = [each for each in get_args(hint) if each is not NoneType]
            hint = rest[0] if len(rest) == 1 else None
        return hint if isinstance(hint, type) and issubclass(hint, self._base) else None

    def _validated(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        bound = self._signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            model = self._models.get(name)
            if model is not None and value is not None:
                bound.arguments[name] = model.model_validate(
                    value, strict=self._strict, context=self._context
                )
        return bound

    def _dumped(self, value: Any) -> Any:
        model = self._models.get("return")
        return self._dump(value) if model is not None and isinstance(value, model) else value

    def _dump(self, value: Any) -> Any:
        return value.model_dump(**self._dump_options) if isinstance(value, self._base) else value


def _base_model() -> type[BaseModel]:
    # An extra: only applications that ask for it need pydantic.
    try:
        from pydantic import BaseModel
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(
            "a task has pydantic=True, and pydantic is not installed; install umbel[pydantic]"
        ) from error
    return BaseModel
