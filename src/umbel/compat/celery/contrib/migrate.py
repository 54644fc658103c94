"""Moving messages between brokers."""

from umbel.compat.lazily import lazily as _lazily

__all__ = (
    "State",
    "StopFiltering",
    "expand_dest",
    "filter_callback",
    "filter_status",
    "migrate_task",
    "migrate_tasks",
    "move",
    "move_by_idmap",
    "move_by_taskmap",
    "move_direct",
    "move_direct_by_id",
    "move_direct_by_idmap",
    "move_direct_by_taskmap",
    "move_task_by_id",
    "prepare_queues",
    "republish",
    "start_filter",
    "task_id_eq",
    "task_id_in",
)

__getattr__ = _lazily(__name__, {name: f"umbel.maintenance.migrate:{name}" for name in __all__})
