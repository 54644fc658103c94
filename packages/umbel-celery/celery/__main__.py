"""The command ``celery``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, as ``umbel`` does."""
    import celery  # noqa: F401 - refuses to run beside a real Celery
    from celery.bin.celery import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
