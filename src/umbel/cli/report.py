"""``umbel report``: versions, platform, transports and settings, secrets masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umbel.cli.command import command

if TYPE_CHECKING:
    from umbel.cli.context import CliContext

__all__ = ["report"]


@command("report")
def report(context: CliContext, /) -> None:
    """Show what a bug report should tell. Secrets are masked."""
    app = context.app
    app.loader.import_default_modules()
    context.echo(app.bugreport())
