"""The Python API: one function for each command, with the same names and the same settings.

    report = toolchain.run("recipe.yaml", overrides={"finetune.epochs": 1})
    folder = toolchain.build("checkpoint/", engine="openvino", task="sst2", output="engine/")
    model = toolchain.load(folder, threads=4)

What a function makes lies in the store, as what a command makes does, and is not made again: the two share it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from toolchain.core.errors import ToolchainError
from toolchain.pipeline import direct
from toolchain.runtime.predictor import Predictor

if TYPE_CHECKING:
    from toolchain.deliver.report.result import Report
    from toolchain.pipeline.plan import Plan
    from toolchain.pipeline.run import Outcome

__all__ = [
    "augment", "benchmark", "build", "compress", "export", "finetune", "load", "optimize", "run", "validate",
]  # fmt: skip

#: A file or a folder.
Place = str | os.PathLike[str]

#: Settings by their dotted keys, as ``--set`` has them.
Overrides = Mapping[str, Any]


class Settings(TypedDict, total=False):
    """What every function takes that does a stage; all by keyword, and each may be left out."""

    #: Name of a task, or a mapping as a recipe has it; None takes the one that the target was made for.
    task: str | Mapping[str, Any] | None
    #: Folder with ``tokenizer.json``, when it is not beside an ONNX file.
    tokenizer: Place | None
    #: Settings of the stage, or dotted keys of a recipe: ``{"opset": 20}``.
    overrides: Overrides | None
    #: Local folder or file to take the task's data from.
    data: Place | None
    #: Threads to tune and time engines with; 0 is every core; None is what the recipe says.
    threads: int | None
    #: Stages to do again although the store has them.
    force: str | Collection[str]
    #: Folder of the artifacts; by default ``TOOLCHAIN_STORE``, or ``artifacts``.
    store: Place | None
    #: Folder to copy the result to: a new or an empty one.
    output: Place | None


def run(
    recipe: Place, *, overrides: Overrides | None = None, models: Sequence[str] = (), data: Place | None = None,
    variants: Sequence[str] = (), threads: int | None = None, force: str | Collection[str] = (),
    store: Place | None = None, output: Place | None = None,
) -> Report:  # fmt: skip
    """Run a recipe and return its ranked report.

    Args:
        recipe: Its file.
        overrides: Settings that replace the recipe's, by dotted key: ``{"finetune.epochs": 1}``.
        models: ``SOURCE``, or ``NAME=SOURCE`` where the recipe has several models.
        data: Local folder or file to take the task's data from.
        variants: The only variants to run, beside the baseline.
        threads: Threads to tune and time engines with; 0 is every core; None is what the recipe says.
        force: Stages to do again although the store has them.
        store: Folder of the artifacts; by default ``TOOLCHAIN_STORE``, or ``artifacts``.
        output: Folder to write the report to; ``report.html`` is its page.

    Raises:
        RecipeError: The recipe or a setting is not valid; every problem is named.
        ToolchainError: No engine came through; or the store or the output cannot be used.
    """
    from toolchain.pipeline import plan as plans
    from toolchain.pipeline import recipe as recipes

    asked = _asked({"overrides": overrides, "data": data, "threads": threads}, models, variants)
    plan = plans.make(recipes.load(Path(recipe), asked.sets, asked.models, asked.data), only=asked.variants)
    return _report(_executed(plan, store, force), output)


def validate(
    recipe: Place, *, overrides: Overrides | None = None, models: Sequence[str] = (), data: Place | None = None
) -> list[str]:
    """Check a recipe and what it names, without loading a model or running anything.

    Args:
        recipe: Its file.
        overrides: Settings that replace the recipe's.
        models: ``SOURCE``, or ``NAME=SOURCE``.
        data: Local folder or file to take the task's data from.

    Returns:
        The engines that it ranks, as ``VARIANT/ENGINE``.

    Raises:
        RecipeError: With every problem.
    """
    from toolchain.pipeline import document, inputs, plan
    from toolchain.pipeline import recipe as recipes

    asked = _asked({"overrides": overrides, "data": data}, models)
    written = document.read(Path(recipe))
    parsed = recipes.parse(written, asked.sets, asked.models, asked.data)
    engines = [row.name for row in plan.make(parsed).rows]
    inputs.check(written, parsed)
    return engines


def load(engine: Place, *, threads: int = 0, digest: str | None = None) -> Predictor:
    """Open an engine folder for answering; PyTorch is not needed.

    Args:
        engine: The folder, such as :func:`build` returns.
        threads: Threads that compute one batch; 0 is every physical core that affinity and CPU quota allow.
        digest: SHA-256 of the folder's content, as whoever built it tells; nothing is loaded where it differs.

    Raises:
        ModelError: A file is missing or damaged, or the model is of a kind that cannot be answered.
        EngineError: The engine cannot run here.
    """
    return Predictor(Path(engine), threads, digest=digest)


def finetune(model: Place, **settings: Unpack[Settings]) -> Path:
    """Fine-tune a model on a task, and return the checkpoint's folder; :class:`Settings` names the settings."""
    return _one("finetune", [model], ["finetune"], settings)


def augment(checkpoint: Place, technique: str, **settings: Unpack[Settings]) -> Path:
    """Make more training examples, and return their folder.

    Args:
        checkpoint: What labels them.
        technique: How they are made: a file of ``augment/``.
        settings: Those of :class:`Settings`.
    """
    return _one("augment", [checkpoint], [technique], settings)


def compress(checkpoint: Place, technique: str, **settings: Unpack[Settings]) -> Path:
    """Compress a fine-tuned checkpoint, and return the folder of the new one.

    Args:
        checkpoint: Its folder.
        technique: A file of ``compress/``.
        settings: Those of :class:`Settings`.
    """
    return _one("compress", [checkpoint], [technique], settings)


def export(checkpoint: Place, **settings: Unpack[Settings]) -> Path:
    """Export a checkpoint to ONNX, compare it with PyTorch, and return the graph's folder.

    Args:
        checkpoint: Its folder.
        settings: Those of :class:`Settings`.

    Returns:
        ``output``, or the artifact's folder in the store, which is never to be edited.

    Raises:
        RecipeError: A setting is not valid, or the task is missing.
        ToolchainError: It could not be made; the message says why.
    """
    return _one("export", [checkpoint], ["export"], settings)


def optimize(graph: Place, technique: str, **settings: Unpack[Settings]) -> Path:
    """Quantize or transform a graph, and return the folder of the new one.

    Args:
        graph: An ONNX file or folder, or a checkpoint folder.
        technique: A file of ``optimize/``.
        settings: Those of :class:`Settings`.

    Raises:
        GateError: The pass changed more labels than it may.
    """
    return _one("optimize", [graph], [technique], settings)


def build(
    target: Place, engine: str = "onnxruntime", *, variant: str | None = None, **settings: Unpack[Settings]
) -> Path:
    """Build an engine, and return its folder.

    Args:
        target: An ONNX file or folder, a checkpoint folder, or a recipe.
        engine: The runtime, or what a recipe calls it.
        variant: The variant of a recipe.
        settings: Those of :class:`Settings`.
    """
    return _one("build", [target], [], settings, engines=[engine], variants=[variant] if variant else [])


def benchmark(*targets: Place, engines: Sequence[str] = ("onnxruntime",), **settings: Unpack[Settings]) -> Report:
    """Measure accuracy, size and speed of engines side by side, and return their ranked report.

    Args:
        targets: ONNX files or folders, engine folders, checkpoint folders; the first one is the baseline.
        engines: What graphs and checkpoints are built for.
        settings: Those of :class:`Settings`; the report is written to ``output``.

    Raises:
        RecipeError: A setting is not valid, or the task is missing.
        ToolchainError: No engine came through.
    """
    from toolchain.model import adopt

    asked = _asked(settings)
    places = [os.fspath(target) for target in targets]
    built = all(adopt.kind_of(place) == "engine" for place in places)
    plan = direct.plan_of("time", places, [], asked, () if built else engines)
    return _report(_executed(plan, settings.get("store"), settings.get("force", ())), settings.get("output"))


def _one(
    stage: str, targets: Sequence[Place], items: Sequence[str], settings: Settings, *, engines: Sequence[str] = (),
    variants: Sequence[str] = (),
) -> Path:  # fmt: skip
    """Do a stage that gives one artifact, and return its folder."""
    from toolchain.core import delivery
    from toolchain.core.errors import GateError
    from toolchain.measure import gates

    asked, output = _asked(settings, variants=variants), settings.get("output")
    plan = direct.plan_of(stage, [os.fspath(target) for target in targets], items, asked, engines)
    step, *others = direct.ends(plan, stage)
    if others:
        names = ", ".join(each.label for each in (step, *others))
        raise ToolchainError(f"{stage} gives {len(others) + 1} results here: {names}", "name one variant and engine")
    if output is not None:
        delivery.check_target(Path(output), "output")
    outcome = _executed(plan, settings.get("store"), settings.get("force", ()))
    artifact = outcome.artifacts.get(step.id)
    if artifact is None:
        raise ToolchainError("; ".join(dict.fromkeys(outcome.failed.values())))
    if (artifact.metrics.get("parity") or {}).get("passed") is False:
        raise GateError(f"{step.label}: {gates.parity([artifact.metrics['parity']], None).evidence}")
    if output is None:
        return artifact.path
    delivery.copy(artifact, Path(output), "output")
    return Path(output)


def _asked(settings: Settings, models: Sequence[str] = (), variants: Sequence[str] = ()) -> direct.Asked:
    """Return what a function is given, as a command is given it.

    Raises:
        TypeError: There is no such setting.
    """
    if unknown := settings.keys() - Settings.__annotations__.keys():
        raise TypeError(f"unexpected argument {min(unknown)!r}; allowed: {', '.join(Settings.__annotations__)}")
    task, tokenizer, data = settings.get("task"), settings.get("tokenizer"), settings.get("data")
    threads = settings.get("threads")
    sets = {**(settings.get("overrides") or {}), **({} if threads is None else {"benchmark.threads": threads})}
    return direct.Asked(
        task=task if task is None or isinstance(task, str) else json.dumps(task),
        tokenizer=None if tokenizer is None else str(tokenizer),
        sets=[f"{key}={json.dumps(value)}" for key, value in sets.items()],
        models=models,
        data=None if data is None else str(data),
        variants=variants,
    )


def _executed(plan: Plan, store: Place | None, force: str | Collection[str]) -> Outcome:
    """Run a plan in the store that is named, or in the one that commands take."""
    from toolchain.core.store import Store
    from toolchain.pipeline import run as runs

    runs.quiet_libraries()
    return runs.execute(
        plan, Store(Path(store or os.environ.get("TOOLCHAIN_STORE") or "artifacts")), force=direct.forced(force)
    )


def _report(outcome: Outcome, output: Place | None) -> Report:
    """Return the report of a run, and write it where it is asked for."""
    from toolchain.core import delivery
    from toolchain.deliver import ranking
    from toolchain.deliver.report import write
    from toolchain.deliver.report.result import Report

    ranked = Report.of(ranking.rank(outcome))
    if output is not None:
        with delivery.writing(Path(output), "output"):
            write(ranked, Path(output))
    return ranked
