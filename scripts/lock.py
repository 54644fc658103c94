"""Renew every lock file: versions and hashes of the public index's files, no addresses.

    python3 -m scripts.lock [NAME ...]        e.g. requirements-interop, benchmarks/peers/celery

One resolution holds for every supported Python (uv's universal mode): what only some need carries a marker.
"""

from __future__ import annotations

import sys
from pathlib import Path

from scripts.environments import CACHE, ROOT, make_venv, pip_install, python_of, run, say

#: Lock files whose packages do not install on the oldest Python that Umbel supports.
NEWER_PYTHON = {"ardiq": "3.12"}
#: Lock files with everything that Umbel itself needs, its extras included.
_WITH_UMBEL = {"requirements-dev", "requirements-docs", "umbel"}


def main(names: list[str]) -> int:
    """Write the lock beside each named .in file, or beside all of them."""
    uv = _uv()
    sources = [ROOT / f"{name}.in" for name in names] or [
        ROOT / "requirements-dev.in",
        ROOT / "requirements-interop.in",
        ROOT / "requirements-docs.in",
        *sorted((ROOT / "benchmarks" / "peers").glob("*.in")),
        ROOT / "conformance" / "umbel.in",
        ROOT / "conformance" / "celery.in",
        ROOT / "conformance" / "thirdparty.in",
    ]
    for source in sources:
        say(f"locking {source.relative_to(ROOT)}")
        run(
            [
                str(uv),
                "pip",
                "compile",
                *_options(source),
                str(source),
                "-o",
                str(source.with_suffix(".lock")),
            ]
        )
    return 0


def _options(source: Path) -> list[str]:
    options = [
        "--universal",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--no-emit-index-url",
        "--quiet",
    ]
    options += ["--upgrade", "--python-version", NEWER_PYTHON.get(source.stem, "3.11")]
    if source.stem == "thirdparty":
        options += [f"--no-emit-package={name}" for name in ("celery", "kombu", "billiard")]
    if source.stem in _WITH_UMBEL:
        options += ["--all-extras", str(ROOT / "pyproject.toml")]
    return options


def _uv() -> Path:
    """A tool for this command alone, so it stays out of the development environment."""
    path = CACHE / "lock-tools"
    uv = path / "bin" / "uv"
    if not uv.exists():
        make_venv(path, sys.executable)
        pip_install(python_of(path), "uv")
    return uv


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
