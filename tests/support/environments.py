"""Make the environments that tests use, all at once: ``python -m tests.support.environments``.

A test makes the one that it needs when it is not there; but that takes a minute on a busy machine, of the time that the
test may take.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from conformance.environments import ensure_python, ensure_third_parties
from tests.support.peers import interop_python


def main() -> None:
    """Make what is missing. Raises InstallError for the first that cannot be made, after the others."""
    makers = (interop_python, ensure_third_parties, partial(ensure_python, "celery"))
    with ThreadPoolExecutor(len(makers)) as pool:
        made = [pool.submit(maker) for maker in makers]
    for each in made:
        each.result()


if __name__ == "__main__":
    main()
