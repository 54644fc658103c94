"""The tests that are left out, each with its reason; and the files of ``t/unit`` that test public behaviour."""

from __future__ import annotations

from typing import Final

_CHANNELS: Final = (
    "counts the channels that Redis has subscribers of right after delay(): Umbel subscribes in get()"
)
_PUBSUB: Final = "drives the private object that holds Celery's subscriptions, and the PubSub inside it"
_HALF_OPEN: Final = (
    "wedges kombu's channel inside its private poll, and ends it by methods of a Consumer of mocks"
)

#: Test id → why it says nothing of what users see. Ten at most over all files.
EXCLUDED: Final[dict[str, str]] = {
    "t/integration/test_tasks.py::test_tasks::test_task_sent_event_respects_publish_retry_limit": (
        "replaces a method of kombu's channel and reads a private buffer of Celery's event dispatcher"
    ),
    "t/integration/test_tasks.py::test_task_redis_result_backend::test_asyncresult_forget_cancels_subscription": (
        _CHANNELS
    ),
    "t/integration/test_tasks.py::test_task_redis_result_backend::test_asyncresult_get_cancels_subscription": (
        _CHANNELS
    ),
    "t/integration/test_redis_backend.py::test_pubsub_subscribe_churn_while_draining": _PUBSUB,
    "t/integration/test_redis_backend.py::test_pubsub_reentrant_cancel_from_finalizer": _PUBSUB,
    "t/integration/test_worker.py::test_django_fixup_signals_only_handled_by_own_app": (
        "takes the private list of a signal's receivers apart, and waits for worker_init where a worker object is "
        "made: here it is sent when the worker starts"
    ),
    "t/integration/test_request_backend_down.py::test_on_failure_returns_fast_with_unreachable_backend": (
        "makes Celery's worker-side Request by hand, of a mocked message, and calls its methods"
    ),
    "t/integration/test_connection_recovery.py::test_reconnect_cleanup_is_bounded": _HALF_OPEN,
    "t/integration/test_connection_recovery.py::test_cold_shutdown_teardown_is_bounded": _HALF_OPEN,
}

UNIT_FILES: Final = (
    "t/unit/app/test_app.py",
    "t/unit/app/test_defaults.py",
    "t/unit/app/test_exceptions.py",
    "t/unit/app/test_routes.py",
    "t/unit/app/test_schedules.py",
    "t/unit/app/test_utils.py",
    "t/unit/security/test_certificate.py",
    "t/unit/security/test_key.py",
    "t/unit/security/test_security.py",
    "t/unit/security/test_serialization.py",
    "t/unit/tasks/test_canvas.py",
    "t/unit/tasks/test_chord.py",
    "t/unit/tasks/test_context.py",
    "t/unit/tasks/test_result.py",
    "t/unit/tasks/test_stamping.py",
    "t/unit/tasks/test_states.py",
    "t/unit/tasks/test_tasks.py",
    "t/unit/utils/test_functional.py",
    "t/unit/utils/test_serialization.py",
    "t/unit/utils/test_text.py",
    "t/unit/utils/test_time.py",
)


def excluded_of(file: str) -> dict[str, str]:
    """The tests of a file that are left out, with their reasons."""
    return {test: reason for test, reason in EXCLUDED.items() if test.startswith(f"{file}::")}
