"""Cameras: objects that are given the state of the fleet every so many seconds."""

from __future__ import annotations

import logging
import threading
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from umbel.events.receiver import Receiver
from umbel.events.state import State
from umbel.signals import Signal

if TYPE_CHECKING:
    from umbel.events.receiver import WatchableApp

__all__ = ["Polaroid", "evcam"]

logger = logging.getLogger("celery.evcam")

#: What a rate's unit stands for, in seconds.
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Polaroid:
    """The base of cameras: a subclass does something with the state in ``on_shutter``.

    Args:
        state: of the fleet.
        freq: seconds between two shots.
        maxrate: at the most so many, such as ``"10/m"``; None: as ``freq`` says.
        cleanup_freq: seconds between two calls of ``on_cleanup``.
        timer: accepted as Celery's.
        app: the application.
    """

    #: Forget what was shot.
    clear_after = False

    def __init__(
        self,
        state: State,
        freq: float = 1.0,
        maxrate: str | float | None = None,
        cleanup_freq: float = 3600.0,
        timer: Any = None,
        app: WatchableApp | None = None,
    ) -> None:
        self.app = app
        self.state = state
        self.freq = freq
        self.cleanup_freq = cleanup_freq
        self.shutter_signal = Signal("shutter")
        self.cleanup_signal = Signal("cleanup")
        self._least_pause = _pause_of(maxrate)
        self._last_shot = float("-inf")
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def install(self) -> None:
        """Shoot from now on, in a thread."""
        self._thread = threading.Thread(target=self._run, name="umbel-camera", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        clean_at = time.monotonic() + self.cleanup_freq
        while not self._ended.wait(self.freq):
            try:
                self.capture()
                if time.monotonic() >= clean_at:
                    clean_at = time.monotonic() + self.cleanup_freq
                    self.cleanup()
            except Exception:
                # A camera is the user's code; the next shot may succeed, and the fleet goes on either way.
                logger.exception("The camera failed")

    def on_shutter(self, state: State) -> None:
        """Called with the state, which does not change meanwhile."""

    def on_cleanup(self) -> None:
        """Called every ``cleanup_freq`` seconds."""

    def cleanup(self) -> None:
        """Clean up now."""
        logger.debug("Cleanup: Running...")
        self.cleanup_signal.send(sender=self.state)
        self.on_cleanup()

    def shutter(self) -> None:
        """Shoot now, unless the last shot was too lately."""
        now = time.monotonic()
        if now - self._last_shot >= self._least_pause:
            self._last_shot = now
            logger.debug("Shutter: %s", self.state)
            self.shutter_signal.send(sender=self.state)
            self.on_shutter(self.state)

    def capture(self) -> None:
        """Shoot while the state is kept still."""
        self.state.freeze_while(self.shutter, clear_after=self.clear_after)

    def cancel(self) -> None:
        """Shoot no more. Safe twice."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


def _pause_of(rate: str | float | None) -> float:
    if not rate:
        return 0.0
    if isinstance(rate, (int, float)):
        return 1.0 / rate
    count, _, unit = rate.partition("/")
    try:
        return _UNITS[unit or "s"] / float(count)
    except (KeyError, ValueError, ZeroDivisionError):
        raise ValueError(f'expected a rate such as "10/m", not {rate!r}') from None


def evcam(
    camera: str | type[Polaroid],
    freq: float = 1.0,
    maxrate: str | None = None,
    app: WatchableApp | None = None,
) -> None:
    """Keep the state of the fleet and have a camera, a class or the path of one, shoot it until interrupted."""
    if app is None:
        from umbel.state import get_current_app

        app = get_current_app()
    cls = _find(camera)
    print(f"-> evcam: Taking snapshots with {camera} (every {freq} secs.)", flush=True)  # noqa: T201 - Celery's line
    state = State()
    with cls(state, freq=freq, maxrate=maxrate, app=app):
        try:
            Receiver(app=app, handlers={"*": state.event}).capture()
        except (KeyboardInterrupt, SystemExit):
            return


def _find(camera: str | type[Polaroid]) -> type[Polaroid]:
    if not isinstance(camera, str):
        return camera
    module, _, name = camera.replace(":", ".").rpartition(".")
    found: type[Polaroid] = getattr(import_module(module), name)
    return found
