"""Celery's own test suite, run against Umbel under the name of Celery, or against Celery itself."""
