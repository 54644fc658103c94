"""Umbel beside its peers: the same machine, the same run, the same method.

    python -m benchmarks SUITE [--broker …] [--pool …] [--peers celery,dramatiq] [--runs 5] [--json] [--save]

How it measures is told in benchmarks/README.md.
"""
