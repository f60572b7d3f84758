"""The stages, what each takes and gives, and what a technique is handed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from toolchain.core.data import Dataset

__all__ = ["DIALECTS", "Context", "Ge", "Gt", "Le", "Lt", "MinLen", "Stage", "StageConfig", "Teaching"]

Kind = Literal["source", "data", "checkpoint", "onnx", "engine", "evaluation", "timing", "sensitivity", "answers"]

#: ONNX dialects: one that every engine takes, integers from what most take to what ONNX Runtime alone takes, and FP8,
#: which TensorRT alone takes.
DIALECTS = ("standard", "qdq", "qdq-asymmetric", "ort", "qdq-fp8")


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


def _source(step: Any) -> list[str]:
    return [step.source] if step.source else []


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the one-way street from a model source to a measured engine: a file in ``pipeline/stages/``.

    Nothing outside of that folder and this class compares a stage's name: what is to be done is read from these facts.

    Attributes:
        name: The name of its file.
        order: Place on the way; every stage stands behind those that give what it takes.
        takes: Kind of artifact that it reads.
        gives: Kind of artifact that it writes.
        folder: Package folder of its techniques; empty where there is one way to do it.
        module: Where that one way stands, such as ``model.export``: its ``VERSION``, ``LIBRARIES`` and ``Config``.
        variant: Whether it may stand in a variant.
        once: Whether it stands there once at most.
        seeded: Whether its result depends on the training seed.
        trains: Whether it learns from the examples: from all that augmentations add, on every core.
        of_task: Whether its result depends on the task's data, whatever its settings are.
        partial: Whether it does with those of its inputs that are there, where others failed.
        judges: Whether it measures on the task that a certification names, where that is another.
        perform: Does the work of a :class:`toolchain.pipeline.work.Work`, and returns its metrics.
        key_parts: What else decides the result: of the step, its inputs and the folder of the recipe.
        check: Holds what was written against what was given, and returns what that measured: of the work and the store.
        models: The models that a step reads from outside, which are downloaded before its key is computed.
        kind_of: The kind that it gives under its settings, where that depends on them.
    """

    name: str
    order: int
    takes: Kind
    gives: Kind
    folder: str = ""
    module: str = ""
    variant: bool = False
    once: bool = False
    seeded: bool = False
    trains: bool = False
    of_task: bool = True
    partial: bool = False
    judges: bool = False
    perform: Callable[[Any], Metrics]
    key_parts: Callable[[Any, Sequence[Any], Path | None], dict[str, Any]] = _nothing
    check: Callable[[Any, Any], Metrics] = _nothing
    models: Callable[[Any], list[str]] = _source
    kind_of: Callable[[Any], Kind] | None = None

    @property
    def adopts(self) -> bool:
        """Whether it takes in a model as it is."""
        return self.takes == "source" and not self.trains

    @property
    def finetunes(self) -> bool:
        """Whether it trains the encoder that a model begins with."""
        return self.takes == "source" and self.trains

    @property
    def augments(self) -> bool:
        """Whether it makes examples."""
        return self.gives == "data"

    @property
    def compresses(self) -> bool:
        """Whether its techniques are those that make a checkpoint of a checkpoint."""
        return self.folder == "compress"

    @property
    def exports(self) -> bool:
        """Whether it makes a graph of a checkpoint."""
        return (self.takes, self.gives) == ("checkpoint", "onnx")

    @property
    def rewrites(self) -> bool:
        """Whether its techniques are graph passes."""
        return self.folder == "optimize"


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
