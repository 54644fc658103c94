"""A Sphinx extension that documents tasks: ``extensions = ["celery.contrib.sphinx"]``, or ``"umbel.contrib.sphinx"``.

``automodule`` shows tasks as it shows functions, each after ``celery_task_prefix`` (by default ``(task)``);
``.. autotask::`` documents one by its name, and ``:task:`proj.tasks.add``` refers to it.
"""

from __future__ import annotations

import importlib
from inspect import signature
from typing import Any

from umbel.task import Task

__all__ = ["TaskDirective", "TaskDocumenter", "setup"]

# Sphinx is the documentation's affair, and not installed where types are checked.
_sphinx: Any = importlib.import_module("sphinx")
_autodoc: Any = importlib.import_module("sphinx.ext.autodoc")
_python: Any = importlib.import_module("sphinx.domains.python")
_nodes: Any = importlib.import_module("docutils.nodes")

#: The first version of Sphinx whose autodoc has documenters only where it is asked to.
_REWRITTEN = (9, 0)


def _function_of(task: Any) -> Any:
    """The function that a task was made of; None for anything else."""
    return getattr(task, "__wrapped__", None) if isinstance(task, Task) else None


class TaskDocumenter(_autodoc.FunctionDocumenter):  # type: ignore[misc]
    """Documents what the task decorator has made as the function that it was made of."""

    objtype = "task"
    member_order = 11

    @classmethod
    def can_document_member(cls, member: Any, membername: str, isattr: bool, parent: Any) -> bool:
        """Whether it is a task of a function."""
        return _function_of(member) is not None

    def format_args(self, **_: Any) -> str:
        """The function's arguments, without the ``self`` of a bound task."""
        function = _function_of(self.object)
        if function is None:
            return ""
        found = signature(function)
        parameters = list(found.parameters.values())
        if parameters and parameters[0].name in {"self", "cls"}:
            found = found.replace(parameters=parameters[1:])
        return str(found)

    def document_members(self, all_members: bool = False) -> None:
        """A task has none."""

    def check_module(self) -> bool:
        """Whether it was defined in the module: its function was, the task is an instance of a class elsewhere."""
        function = _function_of(self.object)
        own = function is not None and function.__module__ == self.modname
        return own or bool(super().check_module())


class TaskDirective(_python.PyFunction):  # type: ignore[misc]
    """``.. task::``: a function, with the prefix before its name."""

    def get_signature_prefix(self, sig: str) -> list[Any]:
        """The prefix of tasks."""
        return [_nodes.Text(self.env.config.celery_task_prefix)]


def _keep_tasks(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """A task has its function's docstring, which autodoc takes for one that it has of its class alone."""
    return False if skip and _function_of(obj) is not None else None


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    if _sphinx.version_info[:2] >= _REWRITTEN:
        app.config.autodoc_use_legacy_class_based = True
    app.add_autodocumenter(TaskDocumenter)
    app.add_directive_to_domain("py", "task", TaskDirective)
    app.add_role_to_domain("py", "task", _python.PyXRefRole(fix_parens=True))
    app.add_config_value("celery_task_prefix", "(task)", "env")
    app.connect("autodoc-skip-member", _keep_tasks)
    return {"parallel_read_safe": True}
