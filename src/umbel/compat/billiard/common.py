"""Signals of processes."""

import signal

REMAP_SIGTERM = None
TERM_SIGNAL, TERM_SIGNAME = signal.SIGTERM, "SIGTERM"
