"""Processes."""

from multiprocessing import Process
from multiprocessing.process import BaseProcess, active_children, current_process
