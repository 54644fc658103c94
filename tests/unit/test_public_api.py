"""The names the package shows, and what importing it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from statistics import median

import umbel

#: Milliseconds of CPU; the target is 60 on an idle machine, the rest is for busy ones.
_BUDGET = 60
_SLACK = 2.5


def test_public_names():
    assert sorted(umbel.__all__) == [
        "Broadcast",
        "Celery",
        "Exchange",
        "Queue",
        "Signature",
        "Task",
        "Umbel",
        "__version__",
        "chain",
        "chord",
        "chunks",
        "current_app",
        "current_task",
        "group",
        "install_as_celery",
        "maybe_signature",
        "shared_task",
        "signature",
        "subtask",
        "uuid",
        "xmap",
        "xstarmap",
    ]
    for name in umbel.__all__:
        assert getattr(umbel, name) is vars(umbel)[name]


def _in_a_fresh_process(code: str, cache: str) -> str:
    # Bytecode is kept, as in any installation: compiling is not what is measured.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = cache
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_import_leaves_heavy_modules_alone(tmp_path):
    # msgspec takes typing_extensions where it is installed, and that takes inspect and socket: it is not our doing.
    code = (
        "import json, sys; sys.modules['typing_extensions'] = None\n"
        "import umbel; print(json.dumps(sorted(sys.modules)))"
    )
    modules = json.loads(_in_a_fresh_process(code, str(tmp_path)))
    heavy = {
        "asyncio",
        "click",
        "concurrent.futures",
        "email",
        "importlib.metadata",
        "importlib.resources",
        "inspect",
        "logging.config",
        "logging.handlers",
        "multiprocessing",
        "pathlib",
        "pickle",
        "random",
        "redis",
        "rich",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "sysconfig",
        "urllib.parse",
        "uvloop",
        "zoneinfo",
    }
    assert not heavy.intersection(modules)


def test_import_is_quick(tmp_path):
    code = (
        "import time; begun = time.process_time(); import umbel; print((time.process_time() - begun) * 1000)"
    )
    _in_a_fresh_process("import umbel", str(tmp_path))
    taken = median(float(_in_a_fresh_process(code, str(tmp_path))) for _ in range(5))
    assert taken <= _BUDGET * _SLACK, f"import umbel took {taken:.0f} ms of CPU"
