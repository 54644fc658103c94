"""Finding and importing the modules that hold an application's tasks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar

from umbel.config.sources import import_path
from umbel.signals import import_modules

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from umbel.app.application import Umbel

__all__ = ["Loader"]

#: Names of packages to search, or a function that gives them when it is time to.
Packages = "Iterable[str] | Callable[[], Iterable[str]] | None"


class Loader:
    """Imports the modules of one application: ``imports``, ``include``, and what autodiscovery finds."""

    #: Result backends of a program's own: classes, or their paths, by the names that ``result_backend`` has for them.
    override_backends: ClassVar[dict[str, Any]] = {}

    def __init__(self, app: Umbel) -> None:
        self.app = app
        self.task_modules: set[str] = set()

    @property
    def default_modules(self) -> tuple[str, ...]:
        """The modules that the settings name, in the order of their import."""
        conf = self.app.conf
        return (*_names(conf.imports), *_names(conf.include))

    def import_default_modules(self) -> list[Any]:
        """Import what a worker needs: first what ``import_modules`` receivers do, then the modules of the settings.

        Raises whatever importing raises, that of receivers included.
        """
        for _, response in import_modules.send(sender=self.app):
            if isinstance(response, Exception):
                raise response
        return [self.import_task_module(name) for name in self.default_modules]

    def import_task_module(self, module: str) -> Any:
        """Import one module of tasks, the working directory included in the search."""
        self.task_modules.add(module)
        return import_path(module)

    import_from_cwd = import_task_module

    def autodiscover_tasks(self, packages: Iterable[str], related_name: str | None = "tasks") -> None:
        """Import the module ``related_name`` of each package that has one; None: the packages themselves.

        Raises ImportError when a package does not exist, and whatever importing a module raises.
        """
        for package in packages:
            module = _related_module(package, related_name)
            if module is not None:
                self.task_modules.add(module.__name__)


def _names(value: Any) -> Iterable[str]:
    return (value,) if isinstance(value, str) else value or ()


def _related_module(package: str, related_name: str | None) -> ModuleType | None:
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        # Django names applications by their configuration class, package.apps.Config: look one level up.
        package = package.rpartition(".")[0]
        if not package:
            raise
    else:
        if not related_name:
            return module
    wanted = f"{package}.{related_name}"
    try:
        return importlib.import_module(wanted)
    except ModuleNotFoundError as error:
        if error.name == wanted:
            return None
        raise
