"""The command ``celery``."""

from __future__ import annotations

from umbel.cli.main import umbel as celery

from .. import VERSION_BANNER

UNABLE_TO_LOAD_APP_MODULE_NOT_FOUND = "Unable to load celery application.\nThe module {0} was not found."
UNABLE_TO_LOAD_APP_ERROR_OCCURRED = (
    "Unable to load celery application.\n"
    "While trying to load the module {0} the following error occurred:\n{1}"
)
UNABLE_TO_LOAD_APP_APP_MISSING = "Unable to load celery application.\n{0}"
WRONG_APP_OPTION_USAGE_MESSAGE = "You are using `--app` as an option of the sub-command. It goes before it."


def main() -> int:
    """Run the command line of this process and end it."""
    celery.main(prog_name="celery", auto_envvar_prefix="CELERY")
    return 0  # click has ended the process by now
