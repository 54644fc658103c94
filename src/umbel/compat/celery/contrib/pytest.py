"""Fixtures: ``-p celery.contrib.pytest``, or ``pytest_plugins = ("celery.contrib.pytest",)``."""

from umbel.testing.fixtures import (
    celery_app,
    celery_class_tasks,
    celery_config,
    celery_enable_logging,
    celery_includes,
    celery_parameters,
    celery_session_app,
    celery_session_worker,
    celery_worker,
    celery_worker_parameters,
    celery_worker_pool,
    depends_on_current_app,
    pytest_configure,
    umbel_app,
    umbel_worker,
    use_celery_app_trap,
)
