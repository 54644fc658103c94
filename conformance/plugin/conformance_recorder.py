"""A pytest plug-in that writes down, line by line, how each test ended. It runs in the subject's environment."""

import json
import os

_ORDER = ("passed", "skipped", "xfailed", "xpassed", "failed")


class Recorder:
    """Takes the worst of a test's phases; a test that is run again counts as its last run."""

    def __init__(self, path):
        self.file = open(path, "a", buffering=1)
        self.phases = {}

    def write(self, **fields):
        self.file.write(json.dumps(fields) + "\n")

    def pytest_collection_finish(self, session):
        self.write(event="collected", ids=[item.nodeid for item in session.items])

    def pytest_collectreport(self, report):
        if report.failed:
            self.write(event="test", id=report.nodeid, outcome="failed", text=str(report.longrepr)[-2000:])

    def pytest_runtest_logreport(self, report):
        if report.when == "setup":
            self.phases[report.nodeid] = ("passed", "")
        outcome = report.outcome
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        if outcome == "rerun":
            return
        text = str(report.longrepr)[-3000:] if report.failed or report.skipped else ""
        before = self.phases.get(report.nodeid, ("passed", ""))
        if _ORDER.index(outcome) > _ORDER.index(before[0]):
            self.phases[report.nodeid] = (outcome, text)
        if report.when == "teardown":
            outcome, text = self.phases.pop(report.nodeid)
            self.write(event="test", id=report.nodeid, outcome=outcome, text=text, seconds=report.duration)


def pytest_configure(config):
    path = os.environ.get("CONFORMANCE_RECORD")
    if path:
        config.pluginmanager.register(Recorder(path), "conformance-recorder-object")
