"""``umbel shell``: Python with the application and its tasks."""

from __future__ import annotations

import code
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import umbel
from umbel.cli.command import UmbelOption, command
from umbel.cli.context import put_working_directory_on_path
from umbel.cli.errors import CommandFailed

if TYPE_CHECKING:
    from umbel.app import Umbel
    from umbel.cli.context import CliContext

__all__ = ["shell"]

_GROUP = "Shell Options"
#: Names of Celery's shell; those that this version has are there.
_NAMES = ("Task", "chain", "chord", "chunks", "group", "signature", "subtask", "xmap", "xstarmap")


@command(
    "shell",
    UmbelOption(["-I", "--ipython"], help_group=_GROUP, is_flag=True, help="Use IPython."),
    UmbelOption(["-B", "--bpython"], help_group=_GROUP, is_flag=True, help="Use bpython."),
    UmbelOption(["--python"], help_group=_GROUP, is_flag=True, help="Use Python itself."),
    UmbelOption(["-T", "--without-tasks"], help_group=_GROUP, is_flag=True, help="Leave the tasks out."),
    UmbelOption(["--eventlet"], help_group=_GROUP, is_flag=True, help="Not in this version."),
    UmbelOption(["--gevent"], help_group=_GROUP, is_flag=True, help="Not in this version."),
)
def shell(
    context: CliContext,
    /,
    ipython: bool,
    bpython: bool,
    python: bool,
    without_tasks: bool,
    eventlet: bool,
    gevent: bool,
) -> None:
    """Start Python with the application (app, celery), its tasks and what makes signatures at hand.

    IPython or bpython is used where it is installed.
    """
    if eventlet or gevent:
        raise CommandFailed("--eventlet and --gevent are not in this version", exit_code=2)
    put_working_directory_on_path()
    names = namespace(context.app, without_tasks=without_tasks)
    if python:
        _start_python(names)
    elif ipython or bpython:
        _start("IPython" if ipython else "bpython", names)
    else:
        _start_the_best(names)


def namespace(app: Umbel, *, without_tasks: bool) -> dict[str, Any]:
    """What is at hand in the shell."""
    app.loader.import_default_modules()
    names: dict[str, Any] = {"app": app, "celery": app}
    names |= {name: getattr(umbel, name) for name in _NAMES if name in umbel.__all__}
    if not without_tasks:
        tasks: dict[str, Any] = app.tasks
        names |= {task.__name__: task for name, task in tasks.items() if not name.startswith("celery.")}
    return names


def _start_the_best(names: dict[str, Any]) -> None:
    for shell_name in ("IPython", "bpython"):
        if importlib.util.find_spec(shell_name) is not None:
            _start(shell_name, names)
            return
    _start_python(names)


def _start(shell_name: str, names: dict[str, Any]) -> None:
    try:
        module = importlib.import_module(shell_name)
    except ImportError as error:
        raise CommandFailed(f"{shell_name} is not installed", cause=error) from error
    if shell_name == "IPython":
        module.start_ipython(argv=[], user_ns=names)
    else:
        module.embed(names)


def _start_python(names: dict[str, Any]) -> None:
    try:
        import readline
        import rlcompleter
    except ImportError:
        pass  # Python was built without it; the shell works, without completion
    else:
        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")
    code.interact(local=names)
