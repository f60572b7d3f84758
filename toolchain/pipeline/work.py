"""What the stage of a step is handed to do its work."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from toolchain.augment.shared import examples_file
from toolchain.core.data import Dataset
from toolchain.core.stage import Context
from toolchain.core.store import Artifact
from toolchain.pipeline.plan import Plan, Step


@dataclass(frozen=True)
class Work:
    """The work of one step.

    Attributes:
        step: The step.
        inputs: Its inputs, without examples.
        more: Examples that augmentations made, which are in the context's data.
        out: Empty folder to write.
        context: What the technique is handed.
        plan: The plan, for model paths and engine names.
    """

    step: Step
    inputs: Sequence[Artifact]
    more: Sequence[Artifact]
    out: Path
    context: Context
    plan: Plan

    @property
    def parent(self) -> Artifact:
        """The first input: what the step is done to."""
        return self.inputs[0]


def work_of(step: Step, inputs: list[Artifact], out: Path, context: Context, plan: Plan) -> Work:
    """Return the work of one step.

    Args:
        step: The step.
        inputs: Its inputs.
        out: Empty folder to write.
        context: What the technique is handed.
        plan: The plan, for model paths and engine names.
    """
    more = [artifact for artifact in inputs if artifact.kind == "data"]
    rest = [artifact for artifact in inputs if artifact.kind != "data"]
    if more:
        context = _with_more(context, [artifact.path for artifact in more])
    return Work(step, rest, more, out, context, plan)


def _with_more(context: Context, folders: list[Path]) -> Context:
    """A context whose data has the training examples of augmentations as well."""
    given = context.dataset

    @cache
    def data() -> Dataset:
        return examples_file.joined(given(), folders)

    return dataclasses.replace(context, dataset=data)
