"""Run Celery's own suite: ``python -m conformance celery --pair redis+redis [--subject umbel|celery]``.

Progress goes to standard error. Standard output ends with one JSON document::

    {"pair", "subject", "collected", "passed", "failed", "skipped", "deselected": [{"id", "reason"}], "failures": [id]}
"""

from __future__ import annotations

import argparse
import json
import signal
import sys

from conformance.environments import ensure_python
from conformance.exclusions import UNIT_FILES
from conformance.pairs import PAIRS, servers
from conformance.running import Run, Tally, logs_folder, run_files
from conformance.suite import ensure_suite, files
from scripts.environments import InstallError, say
from tests.support.servers import ServerMissingError


def main(arguments: list[str]) -> int:
    """Run, print, and give 0 when nothing failed."""
    options = _parse(arguments)
    # What was started is ended with it, whoever ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        python = ensure_python(options.subject)
        folder = ensure_suite(python)
        names = files(folder, UNIT_FILES if options.unit else None)
        if options.files:
            names = [name for name in names if any(part in name for part in options.files)]
        tally = Tally()
        label = f"{options.pair}-unit" if options.unit else options.pair
        with servers(options.pair) as running:
            run = Run(
                python, folder, running.environment(), logs_folder(label, options.subject), options.keyword
            )
            run_files(run, names, tally, running.empty)
    except (InstallError, ServerMissingError) as error:
        say(str(error))
        return 1
    if not options.json:
        _explain(tally)
    print(json.dumps(_document(options, tally)))
    return 1 if tally.failures else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("suite", choices=["celery"], help="whose tests")
    parser.add_argument("--pair", choices=PAIRS, default=PAIRS[0], help="broker and result backend")
    parser.add_argument("--subject", choices=["umbel", "celery"], default="umbel", help="what is judged")
    parser.add_argument("--unit", action="store_true", help="the chosen files of t/unit, not t/integration")
    parser.add_argument("--file", action="append", dest="files", metavar="PART", help="only files so named")
    parser.add_argument("-k", dest="keyword", metavar="EXPRESSION", help="only tests so named (pytest's -k)")
    parser.add_argument("--json", action="store_true", help="nothing but the document on standard output")
    return parser.parse_args(arguments)


def _explain(tally: Tally) -> None:
    """Print how each failure ended, before the document."""
    for test in tally.failures:
        print(f"---- {tally.outcomes[test].upper()} {test}\n{tally.reasons.get(test, '')[-1200:]}\n")


def _document(options: argparse.Namespace, tally: Tally) -> dict[str, object]:
    return {
        "pair": options.pair,
        "subject": options.subject,
        "collected": len(tally.outcomes) + len(tally.deselected),
        "passed": tally.count("passed", "xpassed"),
        "failed": len(tally.failures),
        "skipped": tally.count("skipped", "xfailed"),
        "deselected": [{"id": test, "reason": reason} for test, reason in tally.deselected.items()],
        "failures": tally.failures,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
