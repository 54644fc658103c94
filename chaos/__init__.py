"""A fault harness: a load on real workers and a real broker, faults by a seeded schedule, and a count of what is left.

``python -m chaos --broker redis --seed 1 --seconds 60`` counts what was confirmed, what ran and what did not.
``run`` holds it together; ``schedule`` is what is done when, ``faults`` how, ``crew`` to whom, ``world`` where;
``producer`` and ``app`` are the programs under fault, which write what happened into journals; ``checker`` compares.
``docs/reliability.md`` has the promises and the figures.
"""
