"""What a worker does when told by remote control. ``COMMANDS`` is the table."""

from __future__ import annotations

from typing import Final

from umbel.worker.commands import inspecting, revoking, steering
from umbel.worker.commands.commander import Commander
from umbel.worker.commands.panel import Command, CommandInfo, Table, control_command, inspect_command

__all__ = ["COMMANDS", "Command", "CommandInfo", "Commander", "Table", "control_command", "inspect_command"]

#: Every command by its name.
COMMANDS: Final = Table([*inspecting.COMMANDS, *revoking.COMMANDS, *steering.COMMANDS])
