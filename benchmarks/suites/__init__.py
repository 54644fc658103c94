"""The suites: each measures one system once and gives its figures. ``SUITES`` lists them.

A suite is a class with ``calibrate(rig)``, called once for each system, and ``measure(rig)``, called in turn
(A B A B), so that whatever else the machine does falls on all of them alike.
"""
