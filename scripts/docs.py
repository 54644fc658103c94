"""Build the documentation: the pages of ``docs/``, and the pages that the code itself knows.

    python -m scripts.docs        the pages in build/docs, a broken link or reference is an error

The settings, the commands and the interface are written from the settings table, the command line and the docstrings.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import click

from scripts.environments import CACHE, ROOT, ensure_environment, say
from umbel.cli.main import umbel
from umbel.config.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from umbel.config.setting import Setting

_LOCK: Final = ROOT / "requirements-docs.lock"
_SOURCE: Final = CACHE / "docs-source"
_TARGET: Final = ROOT / "build" / "docs"

#: The modules whose public names users import, with what the page says of them.
_INTERFACE: Final = {
    "umbel": "The application, tasks, queues and workflows",
    "umbel.canvas.workflows": "Workflows",
    "umbel.results.handles": "Results",
    "umbel.results.sets": "Results of many tasks",
    "umbel.scheduler.schedules": "Schedules",
    "umbel.signals": "Signals",
    "umbel.errors": "Errors",
    "umbel.brokers.base": "The contract of brokers",
    "umbel.results.base": "The contract of result backends",
    "umbel.pools.base": "The contract of pools",
}


def main() -> int:
    """Build the pages; Sphinx's exit status."""
    python = ensure_environment("docs", _LOCK)
    _gather()
    say(f"building {_TARGET.relative_to(ROOT)}")
    command = [str(python), "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]
    status = subprocess.run(
        [*command, str(_SOURCE), str(_TARGET)],
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    ).returncode
    if status == 0:
        say(f"open {_TARGET / 'index.html'}")
    return status


def _gather() -> None:
    """Lay out what Sphinx reads: the repository's pages as they are, with the written ones beside them."""
    shutil.rmtree(_SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", _SOURCE)
    (_SOURCE / "settings.md").write_text("\n".join(_settings_page()))
    (_SOURCE / "commands.md").write_text("\n".join(_commands_page()))
    (_SOURCE / "interface.md").write_text("\n".join(_interface_page()))


def _settings_page() -> Iterator[str]:
    yield "# Settings\n"
    yield "Every setting by family. Celery's names, types and defaults; Umbel's own are marked.\n"
    for group in dict.fromkeys(setting.group for setting in SETTINGS):
        yield f"## {group or 'general'}\n"
        yield "| setting | takes | default | what it means |\n| --- | --- | --- | --- |"
        yield from (_row(setting) for setting in SETTINGS if setting.group == group)
        yield ""


def _row(setting: Setting) -> str:
    notes = [
        note
        for holds, note in (
            (setting.ours, "Umbel's own."),
            (setting.idle, "Accepted, and nothing depends on it."),
            (bool(setting.deprecated), f"Deprecated: {setting.deprecated}."),
        )
        if holds
    ]
    cells = (
        f"`{setting.name}`",
        setting.kind.expects,
        f"`{setting.default!r}`",
        " ".join([setting.doc, *notes]),
    )
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _commands_page() -> Iterator[str]:
    yield "# Commands\n"
    yield "What `--help` says.\n"
    for names, command in _commands(umbel, ("umbel",)):
        context = click.Context(command, info_name=" ".join(names), terminal_width=100)
        yield f"## {' '.join(names)}\n\n```text\n{command.get_help(context)}\n```\n"


def _commands(
    command: click.Command, names: tuple[str, ...]
) -> Iterable[tuple[tuple[str, ...], click.Command]]:
    """A command and those under it, in the order of their names."""
    yield names, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in sorted(command.list_commands(context)):
            member = command.get_command(context, name)
            if member is not None and not member.hidden:
                yield from _commands(member, (*names, name))


def _shown_before(module: str) -> str:
    """An option that leaves out what an earlier module of the page shows."""
    names = {"umbel.canvas.workflows": "Signature", "umbel.scheduler.schedules": "ParseException"}.get(module)
    return f"\n   :exclude-members: {names}" if names else ""


def _interface_page() -> Iterator[str]:
    yield "# Interface\n"
    for module, title in _INTERFACE.items():
        yield f"## {title}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:{_shown_before(module)}\n```\n"


if __name__ == "__main__":
    sys.exit(main())
