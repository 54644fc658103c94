"""Schedules by the sun."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, Final

from umbel.errors import ImproperlyConfigured
from umbel.scheduler.schedules import BaseSchedule, schedstate

__all__ = ["solar"]

#: Event → the horizon in degrees, what to look for, and whether the middle of the sun counts rather than its edge.
_EVENTS: Final = {
    "dawn_astronomical": ("-18", "next_rising", True),
    "dawn_nautical": ("-12", "next_rising", True),
    "dawn_civil": ("-6", "next_rising", True),
    "sunrise": ("-0:34", "next_rising", False),
    "solar_noon": ("0", "next_transit", False),
    "sunset": ("-0:34", "next_setting", False),
    "dusk_civil": ("-6", "next_setting", True),
    "dusk_nautical": ("-12", "next_setting", True),
    "dusk_astronomical": ("-18", "next_setting", True),
}


class solar(BaseSchedule):  # noqa: N801 - Celery's name
    """At an event of the sun, as seen from a place.

    Where and when the sun does not rise, or it does not get dark, the event waits for the next day on which it occurs.

    Args:
        event: ``dawn_astronomical``, ``dawn_nautical``, ``dawn_civil``, ``sunrise``, ``solar_noon``, ``sunset``,
            ``dusk_civil``, ``dusk_nautical`` or ``dusk_astronomical``.
        lat, lon: the place, in degrees.
        kwargs: ``nowfun`` and ``app``, see BaseSchedule.

    Raises ImproperlyConfigured without the library ephem, ValueError for another event or no place on earth.
    """

    _all_events = frozenset(_EVENTS)
    _horizons = {event: horizon for event, (horizon, _, _) in _EVENTS.items()}
    _methods = {event: method for event, (_, method, _) in _EVENTS.items()}
    _use_center_l = {event: center for event, (_, _, center) in _EVENTS.items()}

    #: How many days ahead an event is looked for that does not happen every day.
    max_search_days = 366

    def __init__(self, event: str, lat: float, lon: float, **kwargs: Any) -> None:
        try:
            self.ephem: Any = import_module("ephem")
        except ImportError as error:
            raise ImproperlyConfigured(
                "solar schedules need the library ephem: install umbel[solar] (celery[solar])"
            ) from error
        self.event = event
        self.lat = lat
        self.lon = lon
        super().__init__(**kwargs)
        if event not in self._all_events:
            known = ", ".join(sorted(self._all_events))
            raise ValueError(f'Argument event "{event}" is invalid, must be one of {known}.')
        if not -90 <= lat <= 90:
            raise ValueError(f"Argument latitude {lat} is invalid, must be between -90 and 90.")
        if not -180 <= lon <= 180:
            raise ValueError(f"Argument longitude {lon} is invalid, must be between -180 and 180.")
        self.method = self._methods[event]
        self.use_center = self._use_center_l[event]
        self.cal: Any = self.ephem.Observer()
        self.cal.lat, self.cal.lon = str(lat), str(lon)
        self.cal.elev = 0
        self.cal.horizon = self._horizons[event]
        self.cal.pressure = 0

    def _next_event(self, start: Any) -> Any:
        """The first occurrence after ``start``; where there is none for a year, the end of that year."""
        sun = self.ephem.Sun()
        options = {"use_center": True} if self.use_center else {}
        # The methods are ephem's, named by the table above.
        find = getattr(self.cal, self.method)
        for _ in range(self.max_search_days):
            try:
                return find(sun, start=start, **options)
            except self.ephem.CircumpolarError:
                start = self.cal.next_antitransit(sun, start=start)
        return start

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until the first event after the last run."""
        after = self.maybe_make_aware(last_run_at).astimezone(UTC)
        self.cal.date = after
        event: datetime = self._next_event(self.ephem.Date(after)).datetime()
        return self._in_utc(event) - self._in_utc(self.now())

    def _in_utc(self, instant: datetime) -> datetime:
        return self.maybe_make_aware(instant).astimezone(UTC)

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """As BaseSchedule.is_due."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        return schedstate(is_due=True, next=max(self.remaining_estimate(self.now()).total_seconds(), 0))

    def __reduce__(self) -> Any:
        return self.__class__, (self.event, self.lat, self.lon)

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, solar):
            return (other.event, other.lat, other.lon) == (self.event, self.lat, self.lon)
        return NotImplemented
