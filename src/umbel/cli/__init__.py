"""The command line. Each command is a module of its own, imported when it is asked for: a worker starts the sooner."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from umbel.app import Umbel

__all__ = ["run_with_app"]


def run_with_app(app: Umbel, argv: Sequence[str]) -> int | None:
    """Run the command line in this program with ``app`` in the place of ``-A``; the exit status.

    Raises click's exceptions: the program decides what becomes of them.
    """
    # Programs that only send import this package too, by way of umbel itself, and need no click.
    from umbel.cli.main import umbel

    status = umbel.main(args=list(argv), prog_name="umbel", standalone_mode=False, default_map={"app": app})
    return status if isinstance(status, int) else None
