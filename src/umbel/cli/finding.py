"""From ``-A proj`` to the application, by Celery's rules."""

from __future__ import annotations

import importlib
import os
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import umbel
from umbel.app import Umbel
from umbel.cli.context import put_working_directory_on_path
from umbel.cli.errors import EX_USAGE, CommandFailed, describe
from umbel.state import Proxy

__all__ = ["find_app"]

_MISSING: Final = object()


def find_app(path: str) -> Umbel:
    """The application that a path names; the working directory is searched first.

    ``module:name`` and ``module.name`` name it itself. Of a module, its ``app``, its ``celery``, for a package what
    is in its module ``celery``, or else any application in it.

    Raises CommandFailed, with exit status 2, when there is none or importing failed.
    """
    put_working_directory_on_path()
    if path.endswith(".py") or os.sep in path:
        raise _failure(f"{path} is a file name; a module is named like {_as_module(path)}")
    try:
        found = _named_by(path)
        app = found if isinstance(found, Umbel) or ":" in path else _app_in(found, path)
    except ModuleNotFoundError as error:
        raise _not_found(path, error) if _is_part_of(error.name, path) else _broken(path, error) from error
    except AttributeError as error:
        raise _broken(path, error) from error
    except Exception as error:
        raise _broken(path, error) from error
    if not isinstance(app, Umbel):
        raise _failure(f"{path} is {_kind(app)}, not an application; name one with module:attribute")
    return app


def _named_by(path: str) -> Any:
    module, colon, attribute = path.rpartition(":")
    if colon:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = _attribute(found, name)
        return found
    parent, _, name = path.rpartition(".")
    if parent:
        found = getattr(importlib.import_module(parent), name, _MISSING)
        if found is not _MISSING:
            return found
    return importlib.import_module(path)


def _attribute(owner: Any, name: str) -> Any:
    found = getattr(owner, name, _MISSING)
    if found is _MISSING:
        raise _failure(f"{_kind(owner).capitalize()} has no attribute {name!r}")
    return found


def _app_in(found: Any, path: str) -> Any:
    if not isinstance(found, ModuleType):
        return found
    for name in ("app", "celery"):
        candidate = vars(found).get(name)
        if isinstance(candidate, Umbel):
            return candidate
    if hasattr(found, "__path__"):
        inner = _submodule(f"{found.__name__}.celery")
        if inner is not None:
            return _app_in(inner, path)
    for candidate in vars(found).values():
        # A proxy would answer for the current application, and make one for it.
        if type(candidate) is not Proxy and isinstance(candidate, Umbel):
            return candidate
    raise _failure(
        f"Module {found.__name__!r} ({found.__file__}) has no application: no attribute 'app' or 'celery', "
        "nor any other that is one"
    )


def _submodule(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def _is_part_of(name: str | None, path: str) -> bool:
    module = path.partition(":")[0]
    return name is not None and (module == name or module.startswith(f"{name}."))


def _not_found(path: str, error: ModuleNotFoundError) -> CommandFailed:
    message = f"The module {error.name} was not found in {os.getcwd()} nor on the path"  # noqa: PTH109
    return _failure(message, error)


def _as_module(path: str) -> str:
    return path.removesuffix(".py").strip("./").replace(os.sep, ".")


def _broken(path: str, error: Exception) -> CommandFailed:
    if isinstance(error, CommandFailed):
        return error
    return _failure(
        f"While trying to load the module {path} the following error occurred: {describe(error)}{_place(error)}",
        error,
    )


def _failure(message: str, cause: BaseException | None = None) -> CommandFailed:
    return CommandFailed(f"Unable to load celery application. {message}", exit_code=EX_USAGE, cause=cause)


def _kind(value: Any) -> str:
    return (
        f"module {value.__name__!r}" if isinstance(value, ModuleType) else f"{type(value).__name__} {value!r}"
    )


def _place(error: BaseException) -> str:
    """Where in the user's own code it happened."""
    if isinstance(error, SyntaxError):
        return ""  # its text says it
    library = str(Path(umbel.__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(("<frozen", library)) and "importlib" not in frame.filename:
            return f" ({frame.filename}, line {frame.lineno})"
    return ""
