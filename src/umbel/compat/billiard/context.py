"""Ways to start processes."""

from multiprocessing.context import BaseContext, Process
