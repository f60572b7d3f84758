"""Everything that is not data goes to stderr through here: messages, and progress with an ETA."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from toolchain.core import foreign

logger = logging.getLogger("toolchain")

#: Off a terminal, progress is a log line this often, in seconds.
QUIET_INTERVAL_S = 15.0

#: The rate of work is taken over so many seconds, and over so many steps at least. The first step only starts the
#: clock: what comes before its end is set up once.
RATE_WINDOW_S = 30.0
LEAST_POINTS = 4


def setup(verbosity: int) -> None:
    """Sends messages to stderr: warnings only (-1), what is being done (0), or details as well (1)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Shown("%(message)s"))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel({-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG))


class _Shown(logging.Formatter):
    """Messages quote files of strangers."""

    def format(self, record: logging.LogRecord) -> str:
        return foreign.shown(super().format(record))


class Progress(Protocol):
    """Counts work done."""

    def advance(self, count: float = 1, note: str = "") -> None:
        """Adds work done, and shows a short note such as the current loss."""
        ...

    def expect(self, count: float) -> None:
        """Adds work that turned out to be needed as well."""
        ...


class _LineProgress:
    """A log line now and then, for logs and CI."""

    def __init__(self, label: str, total: float) -> None:
        self.label, self.total, self.done = label, total, 0.0
        self.printed = time.monotonic()
        self.points: deque[tuple[float, float]] = deque()

    def advance(self, count: float = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        self.points.append((now, self.done))
        while len(self.points) > LEAST_POINTS and now - self.points[0][0] > RATE_WINDOW_S:
            self.points.popleft()
        if now - self.printed < QUIET_INTERVAL_S:
            return
        self.printed = now
        left = self._left_s()
        rest = "" if left is None else f", about {left:.0f} s left"
        logger.info("    %s: %.0f of %.0f%s  %s", self.label, self.done, self.total, rest, note)

    def expect(self, count: float) -> None:
        self.total += count

    def _left_s(self) -> float | None:
        """Return the seconds that are left at the rate of the last half minute; None until that rate is known."""
        (since, before), (now, done) = self.points[0], self.points[-1]
        if len(self.points) < LEAST_POINTS or done <= before:
            return None
        return max(0.0, (now - since) * (self.total - done) / (done - before))


@contextmanager
def progress(label: str, total: float) -> Iterator[Progress]:
    """Shows progress of one piece of work: a bar on a terminal, a line now and then elsewhere.

    Args:
        label: What is being done.
        total: How many units it takes.
    """
    if not sys.stderr.isatty() or logger.level > logging.INFO:
        yield _LineProgress(label, total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from toolchain.core.terminal import Terminal

    columns = (TextColumn("    {task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    notes = (TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))
    with Bars(*columns, *notes, console=Terminal(stderr=True), transient=True) as bars:
        bar = bars.add_task(label, total=total, note="")

        class _BarProgress:
            def advance(self, count: float = 1, note: str = "") -> None:
                bars.update(bar, advance=count, note=note)

            def expect(self, count: float) -> None:
                bars.update(bar, total=(bars.tasks[0].total or 0) + count)

        yield _BarProgress()
