"""Umbel's pools over time: waves of load, leaking tasks, recycling. No peers; each has its bound."""
