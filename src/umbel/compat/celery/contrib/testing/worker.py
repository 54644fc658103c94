"""Workers for tests."""

from umbel.testing.worker import (
    WORKER_LOGLEVEL,
    TestWorkController,
    setup_app_for_worker,
    start_worker,
    test_worker_started,
    test_worker_starting,
    test_worker_stopped,
)

__all__ = ("WORKER_LOGLEVEL", "TestWorkController", "setup_app_for_worker", "start_worker")
