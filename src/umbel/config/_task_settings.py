"""The settings of applications, tasks and results."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from umbel.config.setting import Setting
from umbel.config.values import (
    ANY,
    BOOL,
    CONTENT,
    DICT,
    EXPIRES,
    FLOAT,
    INT,
    LIST,
    MODE,
    OBJECT,
    OBJECTS,
    PATH,
    QUEUES,
    RATE,
    SECONDS,
    SECRET,
    TEXT,
    VERSION,
)

__all__ = ["GENERAL", "RESULTS", "SECURITY", "TASKS"]

_task = partial(Setting, group="task")
_result = partial(Setting, group="result")
_security = partial(Setting, group="security", idle=True)

GENERAL = (
    Setting(
        "accept_content",
        CONTENT,
        ("json",),
        "Serializers this application takes from the broker; any other message is refused undecoded.",
        irregular="CELERY_ACCEPT_CONTENT",
    ),
    Setting("result_accept_content", CONTENT, None, "The same for results; None follows accept_content."),
    Setting("enable_utc", BOOL, True, "Times on the wire are UTC; False uses the local timezone (legacy)."),
    Setting("imports", LIST, (), "Modules a worker imports when it starts.", irregular="CELERY_IMPORTS"),
    Setting("include", LIST, (), "More modules to import, after imports.", irregular="CELERY_INCLUDE"),
    Setting(
        "timezone",
        ANY,
        None,
        "Zone name or tzinfo of crontabs and local times; None is Django's TIME_ZONE, else UTC.",
        irregular="CELERY_TIMEZONE",
    ),
)

TASKS = (
    _task("task_acks_late", BOOL, False, "Acknowledge a message after its task has run, not before."),
    _task(
        "task_acks_on_failure_or_timeout",
        BOOL,
        True,
        "With late acknowledgement, acknowledge tasks that failed or ran out of time too.",
        deprecated="task_acks_on_failure and task_acks_on_timeout",
    ),
    _task(
        "task_acks_on_failure",
        BOOL,
        None,
        "With late acknowledgement, acknowledge failed tasks too; None: as above.",
    ),
    _task(
        "task_acks_on_timeout",
        BOOL,
        None,
        "With late acknowledgement, acknowledge tasks that ran out of time; None follows the joint setting.",
    ),
    _task("task_always_eager", BOOL, False, "Run tasks at once in the caller instead of sending them."),
    _task("task_annotations", OBJECTS, None, "Attributes to set on tasks, by task name; '*' stands for all."),
    _task(
        "task_compression",
        TEXT,
        None,
        "How message bodies are compressed: gzip, bzip2, zlib, lzma, brotli, zstd.",
        irregular="CELERY_MESSAGE_COMPRESSION",
    ),
    _task(
        "task_create_missing_queues", BOOL, True, "Declare queues that task_queues does not name, on demand."
    ),
    _task("task_create_missing_queue_type", TEXT, "classic", "x-queue-type of queues declared on demand."),
    _task(
        "task_create_missing_queue_exchange_type",
        TEXT,
        None,
        "Exchange type of queues declared on demand; None follows task_default_exchange_type.",
    ),
    _task("task_inherit_parent_priority", BOOL, False, "A task sent by a task takes the sender's priority."),
    _task(
        "task_default_delivery_mode",
        MODE,
        2,
        "Whether messages survive the broker: 2 persistent, 1 transient.",
    ),
    _task("task_default_queue", TEXT, "celery", "Queue of tasks that no route sends elsewhere."),
    _task("task_default_queue_type", TEXT, "classic", "Type of the default queue: classic or quorum."),
    _task("task_default_exchange", TEXT, None, "Exchange of the default queue; None takes the queue's name."),
    _task("task_default_exchange_type", TEXT, "direct", "Type of the default exchange."),
    _task(
        "task_default_routing_key",
        TEXT,
        None,
        "Routing key of the default queue; None takes the queue's name.",
    ),
    _task("task_default_rate_limit", RATE, None, "Rate limit of tasks that set none, such as '10/s'."),
    _task("task_default_priority", INT, None, "Priority of tasks that set none."),
    _task(
        "task_eager_propagates",
        BOOL,
        False,
        "Eager calls raise the task's error in the caller.",
        irregular="CELERY_EAGER_PROPAGATES_EXCEPTIONS",
    ),
    _task("task_ignore_result", BOOL, False, "Keep no results unless the task says otherwise."),
    _task("task_store_eager_result", BOOL, False, "Keep the results of eager calls too."),
    _task(
        "task_protocol",
        VERSION,
        2,
        "Version of the task message written; version 2 is written whatever it says, both are read.",
        irregular="CELERY_TASK_PROTOCOL",
        idle=True,
    ),
    _task(
        "task_publish_retry",
        BOOL,
        True,
        "Try again when a message cannot be published.",
        irregular="CELERY_TASK_PUBLISH_RETRY",
    ),
    _task(
        "task_publish_retry_policy",
        DICT,
        {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2},
        "How publishing is tried again: how often, and after how many seconds.",
        irregular="CELERY_TASK_PUBLISH_RETRY_POLICY",
    ),
    _task("task_queues", QUEUES, None, "The queues; None means the default queue only."),
    _task("task_queue_max_priority", INT, None, "Highest priority (x-max-priority) of every queue."),
    _task(
        "task_quarantine_after",
        INT,
        3,
        "How often a message may be lost with its worker before it goes to the dead letters; 0: as often as it likes.",
        ours=True,
    ),
    _task("task_reject_on_worker_lost", BOOL, None, "Put a late-acknowledged task back if its process dies."),
    _task(
        "task_retry_on_worker_lost", BOOL, False, "Retry a task whose pool process died, within max_retries."
    ),
    _task(
        "task_remote_tracebacks",
        BOOL,
        False,
        "Let errors carry the worker's traceback (needs tblib).",
    ),
    _task("task_repr_maxlevels", INT, 3, "How deep arguments are shown in logs, events and headers."),
    _task("task_routes", OBJECTS, None, "Routers: a dict with globs, a list of pairs, a function or a path."),
    _task(
        "task_send_sent_event",
        BOOL,
        False,
        "Senders emit a task-sent event.",
        irregular="CELERY_SEND_TASK_SENT_EVENT",
    ),
    _task("task_serializer", TEXT, "json", "Serializer of arguments.", irregular="CELERY_TASK_SERIALIZER"),
    _task(
        "task_soft_time_limit",
        SECONDS,
        None,
        "Seconds until SoftTimeLimitExceeded is raised in a task.",
        irregular="CELERYD_TASK_SOFT_TIME_LIMIT",
    ),
    _task(
        "task_time_limit",
        SECONDS,
        None,
        "Seconds until the process of a task is ended.",
        irregular="CELERYD_TASK_TIME_LIMIT",
    ),
    _task(
        "task_store_errors_even_if_ignored",
        BOOL,
        False,
        "Keep errors even of tasks whose results are ignored.",
    ),
    _task("task_track_started", BOOL, False, "Store the state STARTED when a task begins."),
    _task(
        "task_allow_error_cb_on_chord_header",
        BOOL,
        False,
        "A chord's link_error is called for each failing task of its header too.",
    ),
)

RESULTS = (
    _result("result_backend", OBJECT, None, "Where results are kept: URL, alias or class; None keeps none."),
    _result(
        "result_cache_max",
        INT,
        -1,
        "Results a client remembers; -1 remembers none, 0 or None all.",
        irregular="CELERY_MAX_CACHED_RESULTS",
    ),
    _result("result_compression", TEXT, None, "How stored results are compressed."),
    _result("result_exchange", TEXT, "celeryresults", "Exchange of a result backend long gone.", idle=True),
    _result(
        "result_exchange_type", TEXT, "direct", "Exchange type of a result backend long gone.", idle=True
    ),
    _result(
        "result_expires",
        EXPIRES,
        timedelta(days=1),
        "How long results are kept, seconds or timedelta; 0 or None keeps them for ever.",
        irregular="CELERY_TASK_RESULT_EXPIRES",
    ),
    _result(
        "result_chord_expires",
        EXPIRES,
        None,
        "How long a chord's keys are kept; None follows result_expires.",
    ),
    _result(
        "result_failure_expires", EXPIRES, None, "How long errors are kept; None follows result_expires."
    ),
    _result("result_persistent", BOOL, None, "Whether reply messages of rpc:// survive the broker."),
    _result("result_extended", BOOL, False, "Store name, arguments, worker, retries and queue with results."),
    _result("result_serializer", TEXT, "json", "Serializer of results."),
    _result(
        "result_backend_transport_options", DICT, {}, "Options of the backend, such as global_keyprefix."
    ),
    _result("result_chord_retry_interval", SECONDS, 1.0, "Seconds between looks at a chord that is polled."),
    _result(
        "result_chord_join_timeout",
        SECONDS,
        3.0,
        "Seconds to wait for a header's results before a chord's body.",
    ),
    _result(
        "result_backend_max_sleep_between_retries_ms", INT, 10000, "Longest wait between tries, milliseconds."
    ),
    _result(
        "result_backend_max_retries", FLOAT, float("inf"), "How often a failed backend call is tried again."
    ),
    _result(
        "result_backend_base_sleep_between_retries_ms", INT, 10, "First wait between tries, milliseconds."
    ),
    _result("result_backend_always_retry", BOOL, False, "Try a failed backend call again and again."),
    _result(
        "result_backend_thread_safe",
        BOOL,
        False,
        "Threads share one backend object.",
        unlisted=True,
        idle=True,
    ),
    Setting(
        "override_backends",
        DICT,
        None,
        "Alias to class path, asked before the built-in backends.",
        unlisted=True,
    ),
)

SECURITY = (
    _security("security_certificate", PATH, None, "PEM file of the own certificate."),
    _security("security_cert_store", TEXT, None, "Glob of trusted certificates."),
    _security("security_key", PATH, None, "PEM file of the own private key."),
    _security("security_key_password", SECRET, None, "Password of the private key."),
    _security("security_digest", TEXT, "sha256", "Digest that signatures are made with."),
)
