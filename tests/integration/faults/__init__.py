"""A total-queue checker: what was confirmed, what ran, what was killed when, and whether that adds up.

``producer`` sends under load and logs what the broker confirmed; the tasks of ``app`` log each start and end; ``arena``
runs workers and keeps a record of every fault; ``verdict`` compares the three. Logs are files that each process only
appends to, so that a process may be killed at any instruction and what it had written stays.
"""
