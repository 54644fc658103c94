"""The suite itself: Celery's source distribution, of which only ``t/`` and pytest's settings are taken."""

from __future__ import annotations

import shutil
import tarfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scripts.environments import CACHE, exclusively, pip_of, run, say

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION: Final = "5.7.0"


def ensure_suite(python: Path) -> Path:
    """The folder with ``t/`` and ``pytest.ini``; downloaded by ``python``'s pip on first use."""
    folder = CACHE / f"conformance-suite-{VERSION}"
    with exclusively("conformance-suite"):
        if not (folder / "complete").exists():
            say(f"downloading the source of Celery {VERSION} (once)")
            shutil.rmtree(folder, ignore_errors=True)
            _unpack(_download(python), folder)
            (folder / "complete").touch()
    return folder


def _download(python: Path) -> Path:
    target = CACHE / "conformance-sdist"
    options = ("--no-deps", "--no-binary", "celery", "--no-build-isolation", "--dest", str(target))
    wanted = target / f"celery-{VERSION}.tar.gz"
    if not wanted.exists():
        _pip_download(python, *options, f"celery=={VERSION}")
    return wanted


def _pip_download(python: Path, *arguments: str) -> None:
    run([*pip_of(python), "download", "--quiet", "--disable-pip-version-check", *arguments])


def _unpack(sdist: Path, folder: Path) -> None:
    """Take the tests alone: beside Celery's sources they would import those, whatever is installed."""
    root = f"celery-{VERSION}"
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if member.name.startswith(f"{root}/t/")]
        for member in members:
            member.name = member.name.removeprefix(f"{root}/")
        archive.extractall(folder, members, filter="data")
        settings = archive.extractfile(f"{root}/pyproject.toml")
        assert settings is not None
        table = tomllib.loads(settings.read().decode())["tool"]["pytest"]["ini_options"]
    (folder / "pytest.ini").write_text("\n".join(["[pytest]", *map(_ini_line, table.items())]) + "\n")


def _ini_line(pair: tuple[str, object]) -> str:
    name, value = pair
    if isinstance(value, list):
        return "\n    ".join([f"{name} =", *map(str, value)])
    return f"{name} = {str(value).lower() if isinstance(value, bool) else value}"


def files(folder: Path, unit: Sequence[str] | None) -> list[str]:
    """The files to run, as paths from the folder; ``unit`` names those of ``t/unit``, None is ``t/integration``."""
    if unit is not None:
        return [name for name in unit if (folder / name).exists()]
    return sorted(str(path.relative_to(folder)) for path in (folder / "t/integration").glob("test_*.py"))
