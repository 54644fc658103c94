"""The broker on a Redis Cluster: every queue is a small Redis broker of its own, in one hash slot."""
