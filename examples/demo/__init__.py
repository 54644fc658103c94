"""``python -m examples.demo``: a worker, a few hundred real tasks and a table of what ran. No server needed."""
