"""The stages, what each takes and gives, and what a technique is handed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from toolchain.core.data import Dataset

__all__ = ["DIALECTS", "STAGES", "Context", "Ge", "Gt", "Le", "Lt", "MinLen", "Stage", "StageConfig", "Teaching"]

Kind = Literal["source", "data", "checkpoint", "onnx", "engine", "evaluation", "timing", "sensitivity", "answers"]

#: ONNX dialects: one that every engine takes, integers from what most take to what ONNX Runtime alone takes, and FP8,
#: which TensorRT alone takes.
DIALECTS = ("standard", "qdq", "qdq-asymmetric", "ort", "qdq-fp8")


@dataclass(frozen=True)
class Stage:
    """A stage of the one-way street from a model source to a measured engine.

    Attributes:
        takes: Kind of artifact that it reads.
        gives: Kind of artifact that it writes.
        folder: Package folder of its techniques.
    """

    takes: Kind
    gives: Kind
    folder: str


STAGES: dict[str, Stage] = {
    "adopt": Stage("source", "checkpoint", "model"),
    "finetune": Stage("source", "checkpoint", "model"),
    "augment": Stage("checkpoint", "data", "augment"),
    "compress": Stage("checkpoint", "checkpoint", "compress"),
    "export": Stage("checkpoint", "onnx", "model"),
    "optimize": Stage("onnx", "onnx", "optimize"),
    "build": Stage("onnx", "engine", "engines"),
    "evaluate": Stage("engine", "evaluation", "measure"),
    "time": Stage("engine", "timing", "measure"),
    "sensitivity": Stage("checkpoint", "sensitivity", "measure"),
    "teach": Stage("checkpoint", "answers", "model"),
}


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Base of every technique's ``Config``: a frozen dataclass whose fields carry their ranges.

    A range is an annotation, ``sparsity: Annotated[float, Gt(0), Lt(1)] = 0.5``; a comment line ``#:`` above
    the field, or the class docstring's ``Attributes``, is what ``toolchain show`` prints for it.
    """

    #: Read by pydantic: an unknown setting is an error, and so is a number that is none.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True)
class Teaching:
    """A teacher, and what it answers.

    Attributes:
        checkpoint: The teacher's checkpoint folder.
        answers: Folder with its answers on the training examples, of stage ``teach``; None where nobody asks for them.
    """

    checkpoint: Path
    answers: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a technique is handed besides its input and its settings.

    Attributes:
        work: A folder that survives a kill; state to resume from belongs here.
        seed: Seed of every random choice.
        threads: Threads to compute with.
        dataset: Loads the task's data (cached).
        teachers: Those that the technique names, in that order.
        labeller: Checkpoint that labels what an augmentation makes; None where texts keep their labels.
        traces: Folder of traced graphs, which an export may take; None for none.
    """

    work: Path
    seed: int
    threads: int
    dataset: Callable[[], Dataset]
    teachers: tuple[Teaching, ...] = ()
    labeller: Path | None = None
    traces: Path | None = None


#: Metrics that a second run does not reproduce: times, what was tried by time, where a training went on. They stand in
#: a manifest beside what it states of the result.
OBSERVED = frozenset({
    "asked", "build_s", "gate_seconds", "others_cpus", "refit_s", "resumed_at", "search_s", "speedup", "time",
    "time_table", "trials", "tries", "tuning", "wall_s",
})  # fmt: skip

#: What a technique reports of its work, kept in the manifest: plain JSON values. ``notes``, a list of sentences that a
#: reader of the report must know, stand in the manifest beside them.
Metrics = dict[str, Any]
