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


def test_what_nothing_here_would_call_may_be_named_and_says_so_when_it_is_made():
    """Packages derive from classes of kombu's for brokers that their users do not have: importing them is no error."""
    done = subprocess.run([sys.executable, "-c", _MAKE], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert set(told) == {"Mailbox", "Node", "OwnChannel", "OwnTransport"}
    for name, why in told.items():
        assert "is not in this version of Umbel; " in why, name


_MAKE = """
import json, umbel
umbel.install_as_celery()
from celery.exceptions import ImproperlyConfigured
from kombu.pidbox import Mailbox, Node
from kombu.transport import base
from kombu.transport.virtual import Channel
from kombu.transport.virtual.base import Base64

class OwnChannel(Channel):
    polling_interval = 1

class OwnTransport(base.Transport):
    Channel = OwnChannel

assert Base64().decode(Base64().encode(b"\\0\\xff")) == b"\\0\\xff"
told = {}
for kind in (Mailbox, Node, OwnChannel, OwnTransport):
    try:
        kind("umbel", type="fanout")
    except ImproperlyConfigured as error:
        told[kind.__name__] = str(error)
print(json.dumps(told))
"""
