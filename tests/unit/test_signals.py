"""Signals: who hears what, for how long, and what a receiver's mistakes do."""

from __future__ import annotations

import gc

import pytest

from tests.unit.app_support import make_app
from umbel import shared_task, signals
from umbel.signals import Signal


def test_sending_to_receivers_of_all_and_of_one_sender():
    signal = Signal(name="s")
    heard = []

    @signal.connect
    def everyone(sender, signal, **named):
        heard.append(("everyone", sender, named))
        return 1

    @signal.connect(sender="a")
    def only_a(sender, **_):
        heard.append(("a", sender))

    assert signal.send("a", x=1) == [(everyone, 1), (only_a, None)]
    signal.send("b")
    assert heard == [("everyone", "a", {"x": 1}), ("a", "a"), ("everyone", "b", {})]
    assert signal.has_listeners("b")


def test_senders_that_are_objects_go_by_identity():
    signal, mine, heard = Signal(), [], []
    signal.connect(lambda **_: heard.append(1), sender=mine, weak=False)
    signal.send([])
    signal.send(mine)
    assert heard == [1]


def test_weak_receivers_go_away():
    signal = Signal()

    class Listener:
        def hear(self, **_):
            """Hear."""

    listener = Listener()
    signal.connect(listener.hear)
    assert len(signal.send(None)) == 1
    assert signal.receivers
    del listener
    gc.collect()
    assert not signal.receivers


def test_connecting_twice_and_disconnecting():
    signal = Signal()

    def hear(**_): ...

    signal.connect(hear)
    signal.connect(hear)
    signal.connect(lambda **_: None, dispatch_uid="u", weak=False)
    signal.connect(lambda **_: None, dispatch_uid="u", weak=False)
    assert len(signal.receivers) == 2
    assert signal.disconnect(hear)
    assert not signal.disconnect(hear)
    assert signal.disconnect(dispatch_uid="u")
    assert not signal.receivers


def test_what_a_receiver_raises_is_logged_and_given_back(caplog):
    signal = Signal()

    def broken(**_):
        raise ValueError("mine")

    def fine(**_):
        return "fine"

    signal.connect(broken)
    signal.connect(fine)
    (_, error), (_, value) = signal.send(None)
    assert isinstance(error, ValueError)
    assert value == "fine"
    assert "Signal handler" in caplog.text


def test_receivers_must_take_keywords():
    with pytest.raises(ValueError, match="keyword arguments"):
        Signal().connect(lambda sender: None)
    with pytest.raises(TypeError, match="callable"):
        Signal().connect("text")


def test_a_receiver_that_is_tried_again(monkeypatch, caplog):
    pauses = []
    monkeypatch.setattr("umbel.signals.time.sleep", pauses.append)
    signal, attempts = Signal(), []

    def flaky(**_):
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError
        return "at last"

    signal.connect(flaky, retry=True)
    assert signal.send(None)[0][1] == "at last"
    assert pauses == [2.0, 4.0]
    assert signal.disconnect(flaky)


def test_a_shared_task_as_the_sender():
    @shared_task(name="signals.shared")
    def job(): ...

    heard = []
    with make_app(set_as_current=True) as app:
        signals.task_success.connect(
            lambda sender, result, **_: heard.append(result), sender=job, weak=False, dispatch_uid="t"
        )
        try:
            app.tasks["signals.shared"].apply()
        finally:
            signals.task_success.disconnect(sender=job, dispatch_uid="t")
    assert heard == [None]


def test_every_signal_of_celery_is_there():
    names = """before_task_publish after_task_publish task_sent task_received task_prerun task_postrun task_success
    task_retry task_failure task_internal_error task_revoked task_rejected task_unknown celeryd_init celeryd_after_setup
    import_modules worker_init worker_ready worker_shutdown worker_shutting_down worker_before_create_process
    worker_process_init worker_process_shutdown heartbeat_sent setup_logging after_setup_logger after_setup_task_logger
    beat_init beat_embedded_init eventlet_pool_started eventlet_pool_preshutdown eventlet_pool_postshutdown
    eventlet_pool_apply user_preload_options"""
    for name in names.split():
        signal = vars(signals)[name]
        assert isinstance(signal, Signal)
        assert signal.name == name
