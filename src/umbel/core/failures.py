"""Exceptions as documents: written into results by workers, raised again by whoever asks for the result.

A document is ``{"exc_type", "exc_message", "exc_module"}``: the class's qualified name, its arguments and its module.
Reading one never imports a module and never calls anything but an exception class.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from umbel import errors
from umbel.core.json_types import dumps_json
from umbel.errors import EncodeError, SecurityError, wire_module

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

_PACKAGE: Final = __name__.partition(".")[0]
#: Our own classes by the module and name they have on the wire, so that they are found where celery is not installed.
_OWN: Final[Mapping[tuple[str, str], type[BaseException]]] = {
    (wire_module(cls), name): cls
    for name, cls in vars(errors).items()
    if isinstance(cls, type) and issubclass(cls, BaseException)
}
_PLAIN: Final = frozenset({str, int, bool, float, type(None)})


def encode_error(error: BaseException) -> dict[str, Any]:
    """The document of an exception. Arguments that JSON has no form for are replaced by their ``repr``."""
    cls = type(error)
    return {
        "exc_type": cls.__qualname__,
        "exc_message": [_writable(argument) for argument in error.args],
        "exc_module": wire_module(cls),
    }


def _writable(argument: Any) -> Any:
    if type(argument) in _PLAIN:
        return argument
    try:
        dumps_json(argument)
    except EncodeError:
        return _shown(argument)
    return argument


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<unrepresentable {type(value).__qualname__}: {type(error).__name__}>"


def decode_error(document: Mapping[str, Any] | BaseException | str | None) -> BaseException:
    """The exception that a document stands for.

    The class is looked up among our own and the modules already imported; where it is not found, a new subclass of
    Exception takes its name. When the class does not take the arguments, the result is an ``Exception`` that names
    both. Documents of other writers may lack any part, or be bare text. Raises SecurityError when the name is found
    and is not an exception class.
    """
    if isinstance(document, BaseException):
        return document
    if not isinstance(document, Mapping) or not isinstance(document.get("exc_type"), str):
        return _from_foreign(document)
    module, name = document.get("exc_module"), document["exc_type"]
    arguments = document.get("exc_message", "")
    found = _find_class(module, name) if isinstance(module, str) else None
    cls = _new_class(name) if found is None else found
    if not isinstance(cls, type) or not issubclass(cls, BaseException):
        where = f"{module}.{name}" if module else name
        raise SecurityError(f"Expected an exception class, got {where} with payload {_bare(arguments)}")
    return _construct(cls, arguments)


def _bare(value: object) -> str:
    return value if isinstance(value, str) else _shown(value)


def _from_foreign(document: object) -> BaseException:
    if isinstance(document, Mapping):
        document = document.get("exc_message") or document.get("message") or dict(document)
    if not document:
        return Exception("the task failed; its worker gave no reason")
    return Exception(_bare(document))


def _find_class(module: str, name: str) -> object:
    """What ``name`` stands for in an imported module; None when there is nothing.

    Only what the module and its classes hold themselves counts, so that looking has no effects.
    """
    own = _OWN.get((module, name))
    if own is not None:
        return own
    found: object = sys.modules.get(module)
    for part in name.split("."):
        namespace = getattr(found, "__dict__", None)
        if namespace is None or part not in namespace:
            return None
        found = namespace[part]
    return found


def _new_class(name: str) -> type[BaseException]:
    try:
        return type(name, (Exception,), {"__module__": "celery.exceptions"})
    except ValueError:  # a name that no class can have
        return Exception


def _construct(cls: type[BaseException], arguments: Any) -> BaseException:
    try:
        return cls(*arguments) if isinstance(arguments, (list, tuple)) else cls(arguments)
    except Exception:
        return Exception(f"{cls}({_bare(arguments)})")


def format_traceback(error: BaseException) -> str:
    """The text of an exception with its traceback and causes, without our own frames above the task's function."""
    # Imported here: formatting tracebacks pulls in the tokenizer, which programs that only send tasks never need.
    import traceback

    try:
        return "".join(_format(traceback.format_exception, error))
    except Exception as failure:
        return f"{type(error).__qualname__} (its traceback cannot be shown: {type(failure).__qualname__})\n"


def _format(format_exception: Any, error: BaseException) -> Iterable[str]:
    lines: Iterable[str] = format_exception(type(error), error, _below_library(error.__traceback__))
    return lines


def _below_library(trace: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins with the first frame that is not ours; all of it when every frame is."""
    below = trace
    while below is not None and _is_library(below):
        below = below.tb_next
    return below or trace


def _is_library(trace: TracebackType) -> bool:
    name = trace.tb_frame.f_globals.get("__name__")
    return isinstance(name, str) and name.partition(".")[0] == _PACKAGE
