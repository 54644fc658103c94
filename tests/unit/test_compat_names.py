"""Every documented name of Celery 5.7 and kombu 5.7 can be imported under the alias."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

#: Module → its public names, as Celery 5.7.0 and kombu 5.7.0 list them.
NAMES = json.loads(Path(__file__).with_name("test_compat_names.json").read_text())
#: What this version does not have. Using one of these raises an ImportError that says so.
MISSING = json.loads(Path(__file__).with_name("test_compat_missing.json").read_text())

_LOOK = """
import json, sys, importlib
import umbel, umbel.errors
umbel.install_as_celery()
missing = {}
for module, names in json.load(sys.stdin).items():
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name.partition(".")[0] not in ("celery", "kombu", "umbel"):
            continue  # a library is not installed here, and the message says which
        missing[module] = {name: str(error) for name in names} or {"": str(error)}
        continue
    for name in names:
        try:
            getattr(found, name)
        except (ModuleNotFoundError, umbel.errors.ImproperlyConfigured) as error:
            continue  # a library is not installed here, and the message says which
        except (ImportError, AttributeError) as error:
            missing.setdefault(module, {})[name] = f"{type(error).__name__}: {error}"
print(json.dumps(missing))
"""


@pytest.fixture(scope="module")
def missing() -> dict[str, dict[str, str]]:
    done = subprocess.run(
        [sys.executable, "-c", _LOOK], input=json.dumps(NAMES), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_every_public_name_is_there(missing):
    unexpected = {
        f"{module}.{name}": why
        for module, names in missing.items()
        for name, why in names.items()
        if name not in MISSING.get(module, [])
    }
    assert unexpected == {}


def test_what_is_not_there_is_really_missing(missing):
    listed = {(module, name) for module, names in MISSING.items() for name in names}
    found = {(module, name) for module, names in missing.items() for name in names}
    assert listed - found == set()


def test_what_is_not_there_says_so(missing):
    for module, names in missing.items():
        for name, why in names.items():
            if name:
                assert "is not in this version of Umbel" in why, f"{module}.{name}: {why}"
