"""The computer's clock, watched: a step back is recorded, because times of rows then overlap."""

from __future__ import annotations

from blemish.station.ids import now_ms

STEP = 2_000  # milliseconds that a clock may be set back unnoticed


class Clock:
    """Compares wall time with time that only goes forward.

    Args:
        last: milliseconds since 1970 that were seen before, by an earlier process; 0 = none.
    """

    def __init__(self, last: int = 0) -> None:
        self._latest, self._expected = last, last
        self._monotonic = 0

    def stepped(self, monotonic: int, wall: int | None = None) -> int:
        """By how many milliseconds the clock went back since the last call; 0 where it did not.

        `monotonic` and `wall` are milliseconds; `wall` is now where it is not given.
        """
        wall = now_ms() if wall is None else wall
        expected = self._expected + (monotonic - self._monotonic if self._monotonic else 0)
        self._expected, self._monotonic = wall, monotonic
        self._latest = max(self._latest, wall)
        return expected - wall if expected - wall > STEP else 0

    def caught_up(self) -> bool:
        """Whether it is later now than it ever was."""
        return self._expected >= self._latest
