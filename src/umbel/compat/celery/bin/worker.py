"""The command ``worker``."""

from __future__ import annotations

import os

from umbel.cli.daemon import detach
from umbel.cli.worker import _Autoscale as Autoscale
from umbel.cli.worker import _Pool as WorkersPool
from umbel.cli.worker import worker
from umbel.worker.options import node_name

from ..utils.sysinfo import AUTO_CONCURRENCY

EX_OK, EX_FAILURE = 0, 1
C_FAKEFORK = os.environ.get("C_FAKEFORK")
AUTOSCALE = Autoscale()
WORKERS_POOL = WorkersPool()


class Hostname:
    """A worker's name."""

    name = "hostname"

    def convert(self, value: str | None, param: object = None, ctx: object = None) -> str:
        """The name made whole."""
        return node_name(value)


HOSTNAME = Hostname()


class CeleryBeat:
    """Whether beat runs in the worker."""

    name = "beat"


CELERY_BEAT = CeleryBeat()
