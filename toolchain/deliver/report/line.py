"""One engine's numbers, and what they are against its own baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain import kinds
from toolchain.certainty.noninferiority import NonInferiority
from toolchain.certainty.statistics import Interval, speedup
from toolchain.core.errors import StoreError
from toolchain.deliver.report import metric
from toolchain.kinds.contract import Agreement, Kind, Metric
from toolchain.measure import gates, records
from toolchain.measure.gates import Verdict

#: Techniques of a model's history that do not make it smaller or faster.
NOT_COMPRESSION = frozenset({"finetune", "export"})

#: Marks of failed gates; "size only" has a rule of its own.
FAILED = {
    "parity": "labels lost", "fusion": "unfused", "placement": "misplaced", "invariance": "depends on batch",
    "isa": "VNNI only",
}  # fmt: skip

#: The mark of a failed parity gate where answers are no labels.
_ANSWERS_LOST = "answers lost"

#: Marks of gates that were run and cannot say.
OPEN = {"invariance": "may depend on batch"}

#: The mark of a failed fusion gate that does not bar the engine.
PARTLY_FUSED = "partly fused"

#: Why a baseline is not barred for its fusion.
IS_BASELINE = "a label only: it is the baseline"

#: An engine is smaller when its baseline is more than so many times as large.
SMALLER = 1.01

#: A ratio of times is unstable when its 95 % interval reaches further than this share to either side of it.
UNSTABLE = 0.10

#: Both ways of timing: the engine alone, and with the tokenizer before it.
SCOPES = ("engine", "end_to_end")


def failed_mark(gate: str, metric: Metric) -> str:
    """Return the mark of a failed gate, one of ``FAILED``, where models are judged by a metric."""
    return _ANSWERS_LOST if gate == "parity" and not metric.binary else FAILED[gate]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one engine, as the store holds it.

    Attributes:
        model: The model's name in the recipe.
        variant: The variant's name.
        engine: The engine's name.
        seed: The seed it was made with.
        engine_key: Key of the engine in the store.
        evaluation: Folder of its evaluation artifact.
        timing: Its entry of ``timing.json``; a mapping with ``error``, or None, where it could not be timed.
        techniques: Techniques applied, in order.
        baseline: Whether its model's ratios are formed against this one.
        provider: The provider it was asked to run on, whose placement is then judged; may be empty.
        passes: Parity of each graph pass of its variant, in order, as their manifests have it.
        fusion: Fused operators that its build found and expected, by kind; None where it does not say.
        partly: Why an incomplete fusion only labels it; empty where it bars it.
        settings: What it is run with, tuned settings among them.
        objection: Why it is not certified; empty where it is, None where the task has no certification split.
        download_bytes: Bytes of all files that answering needs: the engine's own, engine.json, interface and tokenizer;
            None where only the evaluation knows, whose bytes are the engine's own.
        training: ``steps``, ``minutes`` and ``machine`` of what made its checkpoint; empty where it was only adopted.
    """

    model: str
    variant: str
    engine: str
    seed: int
    engine_key: str
    evaluation: Path
    timing: Mapping[str, Any] | None
    techniques: Sequence[str] = ()
    baseline: bool = False
    provider: str = ""
    passes: Sequence[Mapping[str, Any]] = ()
    fusion: Mapping[str, Sequence[int]] | None = None
    partly: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    objection: str | None = None
    download_bytes: int | None = None

    @property
    def compressed(self) -> bool:
        """Whether a technique was applied that is meant to make the engine smaller or faster."""
        return any(name not in NOT_COMPRESSION for name in self.techniques)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One engine's line of the report.

    Attributes:
        row: What it was made from.
        name: How the report calls it.
        kind: The kind of task.
        answers: Its activated answers, ``[examples, …]``; probabilities of a classifier.
        scores: What the metric needs of each example, ``[examples, k]``.
        groups: Which examples hang together, ``[examples]``; None where they are independent.
        accuracy: The metric with its interval: the share of right labels, 0 to 1, of a classifier.
        evaluation: The rest of ``evaluation.json``.
        difference: The metric against its baseline's; None without one.
        p_value: McNemar's p-value of that difference; None of a metric that does not count right examples.
        p_holm: The same, corrected for how many engines the report compares; None for the baseline.
        not_worse: Whether it is at most the report's margin worse than its baseline; None for the baseline.
        flips: Examples answered otherwise than by the baseline.
        compression: CR, bytes to download of the baseline over those of this engine.
        speedups: IS per setting (``batch 1``, ``batch 32``…) and scope: time of the baseline over time of this engine.
        round_ratios: IS of the engine alone in each round, per setting, ``[rounds]``.
        score: WS; None where a part of it is missing.
        rank: Its place by WS among those that may be shipped, from 1; None for others, and without a WS.
        rank_range: Lowest and highest rank that the data leave open, with 95 %.
        tied: Whether the data leave open which of it and the line above is ahead.
        unbeaten: Whether it is sound, and no sound engine of its model and seed beats it in accuracy, size and speed.
        weights_share: The share of all weights of WS under which it is first of the sound engines; None for others.
        gates: A verdict of every gate, in their order.
        barred: Why it may not be shipped: a mark, a colon and the numbers of each reason; empty where it may.
    """

    row: Row
    name: str
    kind: Kind
    answers: NDArray[Any]
    scores: NDArray[np.float64]
    accuracy: Interval
    evaluation: Mapping[str, Any]
    groups: NDArray[np.int64] | None = None
    difference: Interval | None = None
    p_value: float | None = None
    p_holm: float | None = None
    not_worse: NonInferiority | None = None
    flips: int | None = None
    compression: float | None = None
    speedups: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    round_ratios: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    score: float | None = None
    rank: int | None = None
    rank_range: tuple[int, int] | None = None
    tied: bool = False
    unbeaten: bool = False
    weights_share: float | None = None
    gates: tuple[Verdict, ...] = ()
    barred: tuple[str, ...] = ()

    @property
    def error(self) -> str:
        """Why it was not timed; empty when it was."""
        if not self.row.timing:
            return "not timed"
        return str(self.row.timing.get("error") or ("" if self.row.timing.get("settings") else "not timed"))

    @property
    def size_mb(self) -> float:
        """Bytes of all files that answering needs, in 10^6: what is downloaded, limited and compared."""
        return float(self.row.download_bytes or self.evaluation["size_bytes"]) / 1e6

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings it was timed at: ``batch 1``, then the others by batch size."""
        if self.error or not self.row.timing:
            return ()
        throughput = self.row.timing["settings"].get("throughput", {})
        return ("batch 1", *(f"batch {size}" for size in sorted(map(int, throughput))))

    @property
    def size_only(self) -> bool:
        """Whether it is compressed and not measurably faster than its baseline anywhere (gate 5)."""
        return "never slower" in self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """The gates that it failed."""
        return tuple(verdict.gate for verdict in self.gates if verdict.failed)

    @property
    def sound(self) -> bool:
        """Whether it failed none of the gates that bar it from being recommended."""
        return not gates.binding(self.gates)

    @property
    def marks(self) -> tuple[str, ...]:
        """What a reader must know beside the numbers."""
        found = ["baseline"] if self.row.baseline else []
        found += [reason.partition(":")[0] for reason in self.barred]
        found += ["not certified"] if self.row.objection else []
        if self.size_only:
            found.append("size only" if (self.compression or 0) > SMALLER else "no gain")
        elif self.row.compressed:
            found += [f"slower at {setting}" for setting, ratio in self.speedup_of("engine").items() if ratio.high < 1]
        failed = [verdict for verdict in self.gates if verdict.failed and verdict.gate in FAILED]
        labels = [PARTLY_FUSED if verdict.label else failed_mark(verdict.gate, self.kind.METRIC) for verdict in failed]
        found += [label for label in labels if label not in found]
        found += [OPEN[verdict.gate] for verdict in self.gates if verdict.gate in OPEN and verdict.open]
        if any(self.unstable(setting) for setting in self.settings):
            found.append("unstable")
        return tuple(dict.fromkeys(found))

    def speedup_of(self, scope: str) -> dict[str, Interval]:
        """IS per setting, of ``engine`` or ``end_to_end``."""
        return {setting: ratios[scope] for setting, ratios in self.speedups.items() if scope in ratios}

    def measured(self, setting: str, scope: str = "engine", order: str = "sorted") -> Mapping[str, Any]:
        """What was timed at a setting; empty when it was not.

        Args:
            setting: ``batch 1`` (latency) or ``batch N`` (throughput).
            scope: ``engine`` or ``end_to_end``.
            order: ``sorted`` or ``data_order``; latency has only the latter.
        """
        if setting not in self.settings or not self.row.timing:
            return {}
        timed = self.row.timing["settings"]
        entry = timed["latency"] if setting == "batch 1" else timed["throughput"][setting.split()[1]].get(order, {})
        measured: Mapping[str, Any] = entry.get(scope) or {}
        return measured

    def unstable(self, setting: str) -> bool:
        """Whether the rounds leave it too open how fast it is at a setting, against its baseline."""
        ratio = self.speedup_of("engine").get(setting)
        return ratio is not None and ratio.reach > UNSTABLE

    def rounds(self, setting: str, scope: str) -> list[float]:
        """Time per round at a setting, in a unit that is the same for every engine."""
        timed = self.measured(setting, scope)
        if setting == "batch 1":
            return [float(value) for value in timed.get("rounds_ms", ())]
        return [1 / float(value) for value in timed.get("rounds_per_s", ())]


def read_line(row: Row, name: str, split: str) -> Line:
    """Reads one engine's evaluation.

    Args:
        row: The engine.
        name: How the report calls it.
        split: ``dev`` or ``test``.

    Raises:
        StoreError: The evaluation lacks that split, or contradicts itself.
    """
    try:
        evaluation = records.evaluation(row.evaluation / "evaluation.json")
        answers = np.load(row.evaluation / f"probabilities_{split}.npy", allow_pickle=False)
        gold = evaluation["labels"][split]
        claimed = evaluation["splits"][split]
        kind = kinds.named(evaluation)
        figure = claimed["correct"] if kind.METRIC.binary else claimed["score"]
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"the evaluation of {name} ({row.evaluation}) has no readable {split!r} split: {error!r}",
            "measure it again: 'toolchain run' with --force, or report on the split that it has",
        ) from error
    try:
        scores = kind.score(kind.deactivate(answers), gold) if len(answers) == len(gold) else np.empty((0, 1))
    except (ValueError, IndexError):  # answers of another shape
        scores = np.empty((0, 1))
    stored = np.asarray(evaluation.get("scores", {}).get(split, scores))  # earlier versions kept none
    same = stored.shape == scores.shape and np.allclose(stored, scores)
    if not (same and _gives(kind, scores, figure)):
        stated = f"{figure} right labels of {len(gold)}" if kind.METRIC.binary else f"{kind.METRIC.name} of {figure}"
        raise StoreError(
            f"the evaluation of {name} ({row.evaluation}) contradicts itself: its {split} answers do not give the "
            f"{stated} that it states",
            "'toolchain verify' finds what was changed; measure it again with --force",
        )
    grouped = evaluation.get("groups", {}).get(split)
    groups = None if grouped is None else np.asarray(grouped, dtype=np.int64)
    return Line(
        row=row,
        name=name,
        kind=kind,
        answers=answers,
        scores=scores,
        accuracy=metric.interval(kind, scores, groups),
        evaluation=evaluation,
        groups=groups,
    )


def _gives(kind: Kind, scores: NDArray[np.float64], figure: float) -> bool:
    """Return whether scores give the metric that an evaluation states."""
    if kind.METRIC.binary:
        return len(scores) > 0 and int(scores[:, 0].sum()) == figure
    return len(scores) > 0 and math.isclose(kind.combine(scores), figure, rel_tol=1e-9, abs_tol=1e-9)


def _agreement(line: Line, base: Line) -> Agreement:
    return line.kind.agree(line.kind.deactivate(base.answers), line.kind.deactivate(line.answers))


def against(line: Line, base: Line, margin: float) -> dict[str, Any]:
    """The fields of a line that compare it with its baseline.

    Args:
        line: The engine.
        base: Its baseline: of the same model, on the same examples, timed in the same rounds.
        margin: Points of the metric that it may be worse.

    Raises:
        StoreError: The two were not evaluated on the same number of examples.
    """
    if len(line.scores) != len(base.scores):
        raise StoreError(
            f"{line.name} was evaluated on {len(line.scores)} examples and its baseline {base.name} on "
            f"{len(base.scores)}: they cannot be paired",
            "evaluate both on the same data: 'toolchain run' with --force",
        )
    speedups: dict[str, dict[str, Interval]] = {}
    ratios = {}
    for setting in line.settings:
        for scope in SCOPES:
            ours, theirs = line.rounds(setting, scope), base.rounds(setting, scope)
            if ours and len(ours) == len(theirs):
                ratio = Interval(1.0, 1.0, 1.0) if line is base else speedup(theirs, ours)
                speedups.setdefault(setting, {})[scope] = ratio
                if scope == "engine":
                    ratios[setting] = np.asarray(theirs) / np.asarray(ours)
    engine_only = {setting: ratios["engine"] for setting, ratios in speedups.items() if "engine" in ratios}
    slower = [gates.never_slower(engine_only)] if line.row.compressed and line is not base and engine_only else []
    pair = line.kind, base.scores, line.scores
    difference, not_worse = metric.against(*pair, margin / 100, line.groups)
    return {
        "difference": difference,
        "p_value": metric.p_value(*pair),
        "not_worse": None if line is base else not_worse,
        "flips": int(_agreement(line, base).differs.sum()),
        "compression": base.size_mb / line.size_mb,
        "speedups": speedups,
        "round_ratios": ratios,
        "gates": judged(line, slower, _why_not_timed(line, base)),
    }


def judged(line: Line, against_baseline: Sequence[Verdict], why_not_timed: str) -> tuple[Verdict, ...]:
    """Every gate's verdict on a line, in their order.

    Args:
        line: The engine.
        against_baseline: The verdict of never-slower, where there is one.
        why_not_timed: Why there is none.
    """
    row = line.row
    partly = row.partly or (IS_BASELINE if row.baseline else "")
    found = gates.of_engine(row.passes, row.fusion, line.evaluation, row.provider, partly)
    return gates.complete([*against_baseline, *found], why_not_timed)


def _why_not_timed(line: Line, base: Line) -> str:
    """Why never-slower was not judged."""
    if line is base:
        return "it is the baseline"
    if not line.row.compressed:
        return "nothing was done to make it smaller or faster"
    late = line if line.error else base
    return f"{late.name} was not timed"


def score(line: Line, weights: Mapping[str, float], setting: str) -> float | None:
    """WS = w_A·A + w_CR·CR + w_IS·IS, with A in percent; None where CR or IS is missing.

    Args:
        line: The engine, compared with its baseline.
        weights: ``accuracy``, ``compression`` and ``speedup``.
        setting: Which IS counts, e.g. ``batch 1``.
    """
    ratio = line.speedup_of("engine").get(setting)
    if ratio is None or line.compression is None:
        return None
    parts = {
        "accuracy": 100 * line.accuracy.estimate,
        "compression": line.compression,
        "speedup": ratio.estimate,
    }
    return sum(weights[part] * value for part, value in parts.items())
