"""The settings of brokers, workers, events, remote control and beat."""

from __future__ import annotations

from functools import partial

from umbel.config.setting import Setting
from umbel.config.values import (
    ANY,
    BOOL,
    CONCURRENCY,
    DICT,
    FLOAT,
    INT,
    LEVEL,
    MISSED,
    OBJECT,
    PATH,
    SECONDS,
    START_METHOD,
    TEXT,
    TLS,
    URLS,
)

__all__ = ["BEAT", "BROKER", "CONTROL", "EVENTS", "WORKER"]

_WORKER_LINE = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
_TASK_LINE = "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
_FOURTEEN_DAYS = 14 * 24 * 3600.0

_broker = partial(Setting, group="broker")
_worker = partial(Setting, group="worker")
_event = partial(Setting, group="event", idle=True)
_control = partial(Setting, group="control", idle=True)
_beat = partial(Setting, group="beat")


def _daemon(command: str) -> tuple[Setting, ...]:
    """Make the settings that stand in for a command's daemon options."""
    return (
        Setting(
            f"{command}_executable", PATH, None, "Python to detach with.", command, unlisted=True, idle=True
        ),
        Setting(
            f"{command}_logfile", PATH, None, "Log file when --logfile is absent.", command, unlisted=True
        ),
        Setting(
            f"{command}_pidfile", PATH, None, "Pid file when --pidfile is absent.", command, unlisted=True
        ),
        Setting(f"{command}_uid", ANY, None, "User to run as.", command, unlisted=True, idle=True),
        Setting(f"{command}_gid", ANY, None, "Group to run as.", command, unlisted=True, idle=True),
        Setting(
            f"{command}_umask", ANY, None, "File mode mask to run with.", command, unlisted=True, idle=True
        ),
    )


BROKER = (
    _broker(
        "broker_url",
        URLS,
        None,
        "URL of the broker; a list, or a str with ';', names several to fail over to.",
    ),
    _broker("broker_read_url", URLS, None, "Broker of consumers; None follows broker_url."),
    _broker("broker_write_url", URLS, None, "Broker of senders; None follows broker_url."),
    _broker("broker_transport", TEXT, None, "Transport to use instead of the one that broker_url names."),
    _broker("broker_transport_options", DICT, {}, "Options of the broker, such as visibility_timeout."),
    _broker("broker_connection_timeout", SECONDS, 4, "Seconds to wait for a connection."),
    _broker("broker_connection_retry", BOOL, True, "Connect again after a connection is lost."),
    _broker(
        "broker_connection_retry_on_startup",
        BOOL,
        None,
        "Try again if the first connection fails; None follows broker_connection_retry.",
    ),
    _broker("broker_connection_max_retries", INT, 100, "How often to try to connect; 0 or None for ever."),
    _broker(
        "broker_channel_error_retry",
        BOOL,
        False,
        "Go on trying where RabbitMQ refuses a queue too, instead of ending the worker.",
    ),
    _broker("broker_failover_strategy", OBJECT, None, "Order of several URLs: round-robin or shuffle."),
    _broker("broker_heartbeat", SECONDS, 120, "Seconds between AMQP heartbeats."),
    _broker(
        "broker_heartbeat_checkrate", FLOAT, 3.0, "How often in that time heartbeats are sent and looked for."
    ),
    _broker("broker_login_method", TEXT, None, "AMQP login mechanism: PLAIN, AMQPLAIN or EXTERNAL."),
    _broker(
        "broker_native_delayed_delivery_queue_type",
        TEXT,
        "quorum",
        "Type of RabbitMQ's queues for delayed messages.",
    ),
    _broker(
        "broker_pool_limit",
        INT,
        10,
        "Connections a sending process may hold; 0 or None: no pool. With RabbitMQ all threads share one.",
    ),
    _broker(
        "broker_pool_acquire_timeout",
        SECONDS,
        None,
        "Seconds to wait for a pooled connection; None: for ever.",
    ),
    _broker("broker_use_ssl", TLS, False, "Connect with TLS; a dict gives its options."),
    _broker("broker_host", TEXT, None, "Host, where no URL is given."),
    _broker("broker_port", INT, None, "Port, where the URL names none."),
    _broker("broker_user", TEXT, None, "User, where the URL names none."),
    _broker("broker_password", TEXT, None, "Password, where the URL has none."),
    _broker("broker_vhost", TEXT, None, "Virtual host or database, where the URL names none."),
    _broker(
        "broker_publish_timeout",
        SECONDS,
        10.0,
        "Seconds after which a publish the broker has not confirmed is an error.",
        ours=True,
    ),
    _broker(
        "broker_outbox",
        PATH,
        None,
        "SQLite file that takes messages while the broker is away, and forwards them; None: an error instead.",
        ours=True,
    ),
    _broker(
        "broker_outbox_limit",
        INT,
        100_000,
        "Messages in the outbox at the most; more are an error.",
        ours=True,
    ),
    Setting(
        "dead_letter_enabled", BOOL, True, "Keep messages that are given up, with the reason.", ours=True
    ),
    Setting(
        "revoked_expires",
        SECONDS,
        7 * 24 * 3600.0,
        "Seconds for which the broker keeps the ids of revoked tasks; 0: not at all.",
        ours=True,
    ),
    Setting(
        "dead_letter_expires",
        SECONDS,
        _FOURTEEN_DAYS,
        "Seconds dead letters are kept; None: ever.",
        ours=True,
    ),
    Setting(
        "dead_letter_limit",
        INT,
        100_000,
        "How many dead letters of each queue are kept, the newest; None: all.",
        ours=True,
    ),
    Setting(
        "dead_letter_failed",
        BOOL,
        False,
        "Keep the messages of tasks that have failed for good among the dead letters.",
        ours=True,
    ),
    Setting(
        "dead_letter_expired",
        BOOL,
        False,
        "Keep messages that expired before they were begun among the dead letters.",
        ours=True,
    ),
)

WORKER = (
    _worker("worker_agent", OBJECT, None, "Class of an extra part of Celery's worker.", idle=True),
    _worker(
        "worker_autoscaler",
        OBJECT,
        "celery.worker.autoscale:Autoscaler",
        "Class that scales pools; a class, or its path as module:Class.",
    ),
    _worker(
        "worker_cancel_long_running_tasks_on_connection_loss",
        BOOL,
        False,
        "End late-acknowledged tasks when the broker is lost.",
        idle=True,
    ),
    _worker("worker_soft_shutdown_timeout", SECONDS, 0.0, "Seconds between a warm and a cold shutdown."),
    _worker("worker_enable_soft_shutdown_on_idle", BOOL, False, "Wait that long even if nothing runs."),
    _worker(
        "worker_concurrency", CONCURRENCY, None, 'Tasks run at once; None: one per CPU; "auto" heeds cgroups.'
    ),
    _worker(
        "worker_consumer", OBJECT, "celery.worker.consumer:Consumer", "Celery's consumer class.", idle=True
    ),
    _worker(
        "worker_direct",
        BOOL,
        False,
        "Each worker also has a queue of its own.",
        irregular="CELERY_WORKER_DIRECT",
        idle=True,
    ),
    _worker(
        "worker_disable_rate_limits",
        BOOL,
        False,
        "Ignore all rate limits.",
        irregular="CELERY_DISABLE_RATE_LIMITS",
        idle=True,
    ),
    _worker(
        "worker_deduplicate_successful_tasks",
        BOOL,
        False,
        "Skip a redelivered task whose stored result is a success.",
        idle=True,
    ),
    _worker(
        "worker_enable_remote_control",
        BOOL,
        True,
        "Listen for remote control.",
        irregular="CELERY_ENABLE_REMOTE_CONTROL",
    ),
    _worker("worker_hijack_root_logger", BOOL, True, "Take over the handlers of the root logger."),
    _worker("worker_log_color", BOOL, None, "Colour the log; None: on a terminal without a log file."),
    _worker("worker_log_datefmt", TEXT, None, "Date format of the worker's log."),
    _worker("worker_log_format", TEXT, _WORKER_LINE, "Format of the worker's log lines."),
    _worker(
        "worker_lost_wait",
        SECONDS,
        10.0,
        "Seconds to wait for the result of a lost pool process.",
        irregular="CELERYD_WORKER_LOST_WAIT",
        idle=True,
    ),
    _worker("worker_max_memory_per_child", INT, None, "KiB a pool process may use before it is replaced."),
    _worker("worker_max_tasks_per_child", INT, None, "Tasks a pool process runs before it is replaced."),
    _worker("worker_pool", OBJECT, "prefork", "Kind of pool: a name, a class path or a class."),
    _worker(
        "worker_pool_putlocks",
        BOOL,
        True,
        "Bound the pool's queue; Umbel's pools are always bounded.",
        idle=True,
    ),
    _worker("worker_pool_restarts", BOOL, False, "Allow the remote command pool_restart."),
    _worker(
        "worker_pool_start_method", START_METHOD, "fork", "How pool processes are started: fork or spawn."
    ),
    _worker(
        "worker_proc_alive_timeout",
        SECONDS,
        4.0,
        "Seconds a new pool process may take to come up; then another is tried. A spawned one has 60 by default.",
    ),
    _worker("worker_prefetch_multiplier", INT, 4, "Messages held per slot; 1 is fair, 0 without bound."),
    _worker(
        "worker_eta_task_limit",
        INT,
        None,
        "Delayed messages a worker may hold; None without bound.",
        idle=True,
    ),
    _worker(
        "worker_enable_prefetch_count_reduction",
        BOOL,
        True,
        "Fetch less after a reconnection while old tasks run.",
        idle=True,
    ),
    _worker("worker_disable_prefetch", BOOL, False, "Fetch only when a slot is free."),
    _worker(
        "worker_redirect_stdouts",
        BOOL,
        True,
        "What tasks print goes to the log.",
        irregular="CELERY_REDIRECT_STDOUTS",
    ),
    _worker(
        "worker_redirect_stdouts_level",
        LEVEL,
        "WARNING",
        "Log level of what tasks print.",
        irregular="CELERY_REDIRECT_STDOUTS_LEVEL",
    ),
    _worker(
        "worker_send_task_events",
        BOOL,
        False,
        "Emit events about tasks.",
        irregular="CELERY_SEND_EVENTS",
        idle=True,
    ),
    _worker("worker_state_db", PATH, None, "File that keeps revoked ids over restarts."),
    _worker("worker_task_log_datefmt", TEXT, None, "Date format of log lines of tasks."),
    _worker("worker_task_log_format", TEXT, _TASK_LINE, "Format of log lines of tasks."),
    _worker("worker_timer", OBJECT, None, "Celery's timer class.", idle=True),
    _worker("worker_timer_precision", SECONDS, 1.0, "Longest sleep of Celery's timer.", idle=True),
    _worker(
        "worker_detect_quorum_queues",
        BOOL,
        True,
        "Look for quorum queues before choosing a kind of prefetch; here one serves all types of queues.",
        idle=True,
    ),
    *_daemon("worker"),
    _worker(
        "worker_slots",
        INT,
        100,
        "Tasks run at once in each process of the asyncio pool; worker_concurrency is the number of processes.",
        ours=True,
    ),
    _worker(
        "worker_max_age_per_child",
        SECONDS,
        None,
        "Seconds after which a pool process is replaced; None: never.",
        ours=True,
    ),
    _worker(
        "worker_age_jitter",
        FLOAT,
        0.2,
        "Part of worker_max_age_per_child by which each process's time is shorter, at random up to that.",
        ours=True,
    ),
    _worker(
        "worker_loop_block_timeout",
        SECONDS,
        1.0,
        "Seconds after which an event loop of the asyncio pool that a task holds up is logged; 0: never.",
        ours=True,
    ),
    _worker(
        "worker_lease_duration",
        SECONDS,
        10.0,
        "Seconds a worker's messages stay its own without a heartbeat; then a peer takes them over.",
        ours=True,
    ),
    _worker(
        "worker_batch_target",
        SECONDS,
        0.002,
        "Seconds of work put into one frame to a pool process when tasks are short.",
        ours=True,
    ),
    _worker(
        "worker_delay_threshold",
        SECONDS,
        5.0,
        "A message due later than this many seconds waits in the broker, not in the worker.",
        ours=True,
    ),
)

EVENTS = (
    _event("event_queue_expires", SECONDS, 60.0, "Seconds until an unused queue of a monitor goes."),
    _event("event_queue_ttl", SECONDS, 5.0, "Seconds events wait in a monitor's queue."),
    _event("event_queue_prefix", TEXT, "celeryev", "Prefix of monitors' queues."),
    _event("event_queue_exclusive", BOOL, True, "Monitors' queues are exclusive; excludes durable."),
    _event("event_queue_durable", BOOL, False, "Monitors' queues survive the broker."),
    _event("event_serializer", TEXT, "json", "Serializer of events."),
    _event("event_exchange", TEXT, "celeryev", "Exchange of events."),
    *_daemon("events"),
)

CONTROL = (
    _control("control_queue_ttl", SECONDS, 300.0, "Seconds a remote control message waits."),
    _control("control_queue_expires", SECONDS, 10.0, "Seconds until an unused remote control queue goes."),
    _control("control_queue_exclusive", BOOL, True, "Remote control queues are exclusive."),
    _control("control_queue_durable", BOOL, False, "Remote control queues survive the broker."),
    _control("control_exchange", TEXT, "celery", "Prefix of the exchanges of remote control."),
)

BEAT = (
    _beat("beat_enable_remote_control", BOOL, False, "Beat listens for remote control."),
    _beat(
        "beat_remote_control_max_tick_age",
        SECONDS,
        None,
        "Seconds since the last tick after which beat is ill.",
    ),
    _beat("beat_max_loop_interval", SECONDS, 0, "Longest sleep of beat; 0 leaves it to the scheduler."),
    _beat("beat_schedule", DICT, {}, "What to send when: name to task, schedule, args, kwargs, options."),
    _beat("beat_scheduler", OBJECT, "celery.beat:PersistentScheduler", "Scheduler class."),
    _beat(
        "beat_schedule_filename", PATH, "celerybeat-schedule", "File that keeps the times of the last runs."
    ),
    _beat("beat_sync_every", INT, 0, "Tasks sent between writes of that file; 0 goes by time."),
    _beat(
        "beat_cron_starting_deadline", SECONDS, None, "Seconds after which a missed crontab run is skipped."
    ),
    _beat(
        "beat_missed",
        MISSED,
        "once",
        "What becomes of ticks that no beat sent in time: skip, once or all; entries may say it for themselves.",
        ours=True,
    ),
    _beat(
        "beat_store_url",
        TEXT,
        None,
        "Where beats share the lead and their entries; None: the broker or result backend, disabled://: nowhere.",
        ours=True,
    ),
    _beat(
        "beat_store_scope",
        TEXT,
        None,
        "The name under which they do, for several applications in one store; None: the application's.",
        ours=True,
    ),
    *_daemon("beat"),
)
