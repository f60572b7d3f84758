"""Which groups of nodes to quantize: a search over measured trials, kept in a journal from which it goes on.

Each group is first quantized alone, so that what it costs in accuracy is not hidden by what others cost, and what it
gains in time is known. Groups are then taken in the order of error per time gained, as many of them as hold the
accuracy, found by bisection; at last each of the others is tried once more beside them. That is about two trials a
group instead of one for every subset. See Wu et al., arXiv 2004.09602, section 5 (sensitivity, partial quantization).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolchain.core.errors import first_line

JOURNAL_FILE = "journal.jsonl"

Groups = frozenset[str]


@dataclass(frozen=True)
class Trial:
    """One graph that was measured.

    Attributes:
        floats: Groups in floating point; the others are int8.
        accuracy: Dev accuracy, 0 to 1.
        time: Time by the time of the float graph, in the same rounds.
        error: Root mean square of the change in logits, by that of the float graph's logits.
        size_bytes: Bytes of the engine's files.
        seconds: What the trial took.
        failed: Why there is no such engine; empty where there is one.
    """

    floats: tuple[str, ...]
    accuracy: float = 0.0
    time: float = float("inf")
    error: float = float("inf")
    size_bytes: int = 0
    seconds: float = 0.0
    failed: str = ""

    def record(self) -> dict[str, Any]:
        """As JSON: a failed trial has no figures."""
        figures = ("accuracy", "time", "error", "size_bytes")
        return {name: value for name, value in asdict(self).items() if not (self.failed and name in figures)}


class OutOfTime(Exception):  # noqa: N818 - it says that the search has to end, and no more
    """There is no time for another trial."""


class Journal:
    """Trials by their groups, each kept on disk the moment it is done.

    Args:
        folder: Where ``journal.jsonl`` is; what a killed process left there is read, a line that was cut is dropped.
        deadline: Seconds that all trials may take, those of interrupted runs included.
        measure: Measures the graph with these groups in floating point.
        on_trial: Told of every trial, of earlier runs too, when the search comes to it.
    """

    def __init__(
        self,
        folder: Path,
        deadline: float,
        measure: Callable[[Groups], Trial],
        on_trial: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        self._path, self._deadline, self._measure, self._on_trial = folder / JOURNAL_FILE, deadline, measure, on_trial
        self._known = {frozenset(trial.floats): trial for trial in _read(self._path)}
        self._used: dict[Groups, Trial] = {}

    @property
    def trials(self) -> list[Trial]:
        """All trials, in the order in which they were made."""
        return list(self._known.values())

    @property
    def seconds(self) -> float:
        """What all of them took."""
        return sum(trial.seconds for trial in self._known.values())

    def __call__(self, floats: Collection[str]) -> Trial:
        """The trial with these groups in floating point, made where it is not known.

        Raises:
            OutOfTime: One more, as long as the last, would not end before the deadline.
        """
        wanted = frozenset(floats)
        if wanted not in self._known:
            last = self.trials[-1].seconds if self._known else 0.0
            if self.seconds + last >= self._deadline:
                raise OutOfTime
            trial = self._measure(wanted)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(trial.record()) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._known[wanted] = trial
        if wanted not in self._used:
            self._used[wanted] = self._known[wanted]
            self._on_trial(self._known[wanted])
        return self._known[wanted]


def search(groups: Sequence[str], trial: Callable[[Collection[str]], Trial], max_drop: float, margin: float) -> None:
    """Makes the trials that :func:`best` chooses among; the same trials' figures lead to the same trials.

    Args:
        groups: All groups.
        trial: Gives the trial with some groups in floating point.
        max_drop: How far dev accuracy may be below the float graph's, 0 to 1.
        margin: What difference in time counts, as a share.
    """
    everything = frozenset(groups)
    floor = trial(everything).accuracy - max_drop
    trial(frozenset())
    alone = {group: trial(everything - {group}) for group in groups}
    # A group whose int8 form is slower than its float form has no reason to be int8.
    useful = [group for group in groups if alone[group].time <= 1 + margin]
    order = sorted(useful, key=lambda group: (alone[group].error / max(1 - alone[group].time, margin), group))

    def holds(chosen: Iterable[str]) -> bool:
        return _holds(trial(everything.difference(chosen)), floor)

    low, high = 0, len(order)
    if holds(order):
        return
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(order[:middle]) else (low, middle)
    chosen = order[:low]
    for group in order[low + 1 :]:
        if holds([*chosen, group]):
            chosen.append(group)


def best(trials: Sequence[Trial], everything: Groups, max_drop: float, margin: float) -> Trial | None:
    """The fastest of the trials that hold the accuracy; where times are within the margin, the smallest file.

    Returns:
        None where the float graph itself was not tried: there is nothing to compare with.
    """
    reference = next((trial for trial in trials if frozenset(trial.floats) == everything), None)
    if reference is None:
        return None
    fit = [trial for trial in trials if _holds(trial, reference.accuracy - max_drop)]
    least = min(trial.time for trial in fit)
    near = [trial for trial in fit if trial.time <= least * (1 + margin)]
    return min(near, key=lambda trial: (trial.size_bytes, trial.time, trial.floats))


def _holds(trial: Trial, floor: float) -> bool:
    # Accuracies are counts by one number; what their difference loses in rounding is no sentence.
    return not trial.failed and trial.accuracy >= floor - 1e-9


def _read(path: Path) -> Iterable[Trial]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    found, kept = [], []
    with suppress(ValueError, TypeError, KeyError):
        for line in lines:
            record = json.loads(line)
            trial = Trial(**{**record, "floats": tuple(record["floats"])})
            found.append(trial)
            kept.append(line)
    if len(kept) < len(lines) or (kept and not kept[-1].endswith("\n")):
        path.write_text("".join(f"{line.rstrip()}\n" for line in kept), encoding="utf-8")
    return found


def failure(floats: Groups, seconds: float, error: BaseException) -> Trial:
    """The trial of a graph that the engine could not be built from."""
    return Trial(tuple(sorted(floats)), seconds=seconds, failed=first_line(error))
