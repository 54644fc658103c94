"""``python -m chaos --broker redis --seed 1 --seconds 60``; ``python -m chaos soak --seconds 3600``."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from typing import Any

from chaos import options, soak
from chaos.crew import NeverBeganError
from chaos.run import run
from scripts.environments import InstallError, say
from tests.support.servers import ServerMissingError

_INTERRUPTED = 130
_FIGURES = (
    "confirmed",
    "executed",
    "lost",
    "duplicated",
    "duplicates_allowed",
    "duplicates_unexplained",
    "stuck",
    "dead_lettered",
    "quarantined",
    "results_missing",
    "chords_broken",
    "faults_total",
)


def main(arguments: list[str]) -> int:
    """Run; 0 when every promise was kept, 1 when one was not or the run could not be made, 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    soaks = arguments[:1] == ["soak"]
    as_json = "--json" in arguments
    try:
        found = soak.main(arguments[1:]) if soaks else run(options.parse(arguments))
    except (ServerMissingError, InstallError, NeverBeganError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted: everything that was started has ended")
        return _INTERRUPTED
    for wrong in found["wrong"]:
        say(wrong)
    print(json.dumps(found) if as_json else table(found))
    return 0 if found["holds"] else 1


def table(found: Mapping[str, Any]) -> str:
    """The figures for a reader."""
    lines = [f"{name:24}{found[name]:>10}" for name in _FIGURES if name in found]
    for worker, figures in found.get("workers", {}).items():
        lines.append(f"{worker}: " + ", ".join(f"{name} {value:g}" for name, value in figures.items()))
    verdict = "every promise was kept" if found["holds"] else "PROMISES WERE BROKEN"
    seed = f", seed {found['seed']}" if "seed" in found else ""
    return "\n".join([*lines, f"{verdict}: {found['subject']} on {found['broker']}{seed}"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
