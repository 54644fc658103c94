"""What the global options said, for the commands: ``ctx.obj``. Plug-ins made for Celery find its members here."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from umbel.state import get_current_app

if TYPE_CHECKING:
    from pathlib import Path

    from umbel.app import Umbel

__all__ = ["CliContext", "put_working_directory_on_path"]


class CliContext:
    """The application and how to talk to the user.

    Args:
        app: the application that ``-A`` named; None: the default one, when a command needs it.
        no_color, quiet, workdir: the options of these names.
        start_directory: where the program was started, whatever ``--workdir`` said.
    """

    def __init__(
        self,
        app: Umbel | None = None,
        *,
        no_color: bool = False,
        quiet: bool = False,
        workdir: Path | None = None,
        start_directory: str = "",
    ) -> None:
        self.given_app = app
        self.no_color = no_color
        self.quiet = quiet
        self.workdir = workdir
        self.start_directory = start_directory or os.getcwd()  # noqa: PTH109 - text is what exec needs

    @property
    def app(self) -> Umbel:
        """The application; made of the module ``celeryconfig`` or of nothing at all where ``-A`` names none."""
        if self.given_app is None:
            self.given_app = _default_app()
        return self.given_app

    @property
    def OK(self) -> str:  # noqa: N802 -- Celery's name
        """The word that things went well."""
        return self.style("OK", fg="green", bold=True)

    @property
    def ERROR(self) -> str:  # noqa: N802 -- Celery's name
        """The word that things went wrong."""
        return self.style("ERROR", fg="red", bold=True)

    def style(self, message: Any = None, **style: Any) -> str:
        """Text in colour, unless ``--no-color``."""
        return str(message) if self.no_color else click.style(message, **style)

    def echo(self, message: Any = None, **options: Any) -> None:
        """Print a line."""
        click.echo(message, color=False if self.no_color else None, **options)

    def secho(self, message: Any = None, **options: Any) -> None:
        """Print a line in colour."""
        click.secho(message, color=False if self.no_color else None, **options)

    def error(self, message: Any = None, **options: Any) -> None:
        """Print a line on standard error."""
        self.secho(message, err=True, **options)


def put_working_directory_on_path() -> None:
    """Let modules of the working directory be imported, now and later; console scripts do not by themselves."""
    directory = os.getcwd()  # noqa: PTH109 - the path of imports is text
    if directory not in sys.path:
        sys.path.insert(0, directory)


def _default_app() -> Umbel:
    put_working_directory_on_path()
    app: Umbel = get_current_app()
    # Celery's default application reads the module celeryconfig if there is one.
    if not os.environ.get("CELERY_CONFIG_MODULE") and importlib.util.find_spec("celeryconfig") is not None:
        app.config_from_object("celeryconfig")
    return app
