"""What the GPU check writes: a log as it goes, JSON and tables after every part; no paths, no names of hosts."""

from __future__ import annotations

import json
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpu_check import table


class Record:
    """The results so far, and the time that is left.

    Args:
        out: Folder that gets ``gpu.json``, ``gpu.md``, ``summary.md`` and ``gpu.log``.
        budget: Seconds in all.
        private: What stands in the place of paths in whatever is written.
        started: When the budget began, on the monotonic clock.
    """

    def __init__(self, out: Path, budget: float, private: Mapping[str, str], started: float) -> None:
        self.out, self.budget, self.started = out, budget, started
        self.results: dict[str, Any] = {"budget_seconds": budget, "missing": [], "left_out": [], "failed": {}}
        hosts = {platform.node(): "HOST"} if len(platform.node()) > 3 else {}
        self._private = {**private, str(Path.home()): "~", **hosts}
        out.mkdir(parents=True, exist_ok=True)
        self._log = (out / "gpu.log").open("w", encoding="utf-8")

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.budget - (time.monotonic() - self.started)

    def say(self, text: str) -> None:
        """One line of progress, on stderr and in the log."""
        line = f"[{time.monotonic() - self.started:7.1f} s] {self.clean(text)}"
        print(line, file=sys.stderr, flush=True)
        self._log.write(line + "\n")
        self._log.flush()

    def part(self, name: str, seconds: float, work: Callable[[], Any]) -> bool:
        """Does a part of the check if there is time for it; what fails is written down, and the rest goes on.

        Args:
            name: Of the part.
            seconds: How long it takes, about.
            work: The part.

        Returns:
            Whether it was done.
        """
        if self.left < seconds:
            self.results["left_out"].append(name)
            self.say(f"left out, {self.left:.0f} s are left and it takes about {seconds:.0f}: {name}")
            return False
        began = time.monotonic()
        self.say(f"begin: {name}")
        try:
            work()
        except Exception as error:  # whatever a vendor raises
            self.results["failed"][name] = self.clean(f"{type(error).__name__}: {error}")[:2000]
            self.say(f"FAILED: {name}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
            return False
        finally:
            self.results.setdefault("seconds", {})[name] = round(time.monotonic() - began, 1)
            self.write()
        self.say(f"done in {time.monotonic() - began:.1f} s: {name}")
        return True

    def write(self) -> None:
        """Writes all that there is so far, at once or not at all."""
        for name, text in (
            ("gpu.json", json.dumps(self.results, indent=1) + "\n"),
            ("gpu.md", table.page(self.results)),
            ("summary.md", table.summary(self.results)),
        ):
            part = self.out / f"{name}.part"
            part.write_text(self.clean(text), encoding="utf-8")
            part.replace(self.out / name)

    def clean(self, text: str) -> str:
        """A text without this machine's paths and name."""
        for path, instead in sorted(self._private.items(), key=lambda item: -len(item[0])):
            text = text.replace(path, instead) if len(path) > 1 else text
        return re.sub(r"/[\w./+-]*/(site-packages|lib/python3\.\d+)/", r"…/\1/", text)
