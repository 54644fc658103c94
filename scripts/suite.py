"""Run every test; those that fail run again, alone, twice at the most.

The suite kills, freezes and overloads real servers on however few cores there are, beside peers with faults of their
own. A test that fails beside others and passes alone is named at the end: it is a defect to mend, and not of this
change. More failures than a few are not chance, and nothing runs again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from scripts.environments import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

_FAILED: Final = 1  # pytest's status when tests have failed, and nothing else has
_CHANCE: Final = 10
_AGAIN: Final = 2
_MOST_JOBS: Final = 8  # each has servers of its own
_MEMORY: Final = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run pytest with the options given after ``--jobs N``; the exit status of its last run."""
    parser = argparse.ArgumentParser(prog="python -m scripts.suite", description=__doc__)
    parser.add_argument("--jobs", type=int, default=_jobs(), help="how many processes (default: %(default)s)")
    known, options = parser.parse_known_args(arguments)
    _MEMORY.unlink(missing_ok=True)
    if all(option.startswith("-") for option in options):  # nothing is named: every test
        _run("-m", "tests.support.environments")
    # The files come in the order of tests/support/order.py, not in that of the number of their tests.
    status = _pytest("-n", str(known.jobs), "--dist", "loadfile", "--no-loadscope-reorder", *options)
    failed = _failed()
    if status != _FAILED or not 0 < len(failed) <= _CHANCE:
        return status
    again = failed
    for _ in range(_AGAIN):
        print(f"==> again, alone: {', '.join(again)}", flush=True)
        status = _pytest(*again)
        again = _failed()
        if status != _FAILED or not again:
            break
    if status == 0:
        print("==> failed beside others, passed alone (defects of the tests, or found by load):", flush=True)
        for name in failed:
            print(f"    {name}", flush=True)
    return status


def _jobs() -> int:
    """Three for two cores: tests wait for half of their time, for leases to lapse and for processes to begin."""
    return min(_MOST_JOBS, max(2, len(os.sched_getaffinity(0)) * 3 // 2))


def _pytest(*options: str) -> int:
    return _run("-m", "pytest", *options)


def _run(*arguments: str) -> int:
    # Hundreds of processes are started: where none may keep what it compiled, each compiles the whole package.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False, env=environment).returncode


def _failed() -> list[str]:
    """What failed in the last run, as pytest keeps it."""
    return sorted(json.loads(_MEMORY.read_text())) if _MEMORY.exists() else []


if __name__ == "__main__":
    sys.exit(main())
