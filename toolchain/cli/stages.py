"""One command per stage: on a recipe, up to and including that stage, or directly on what a user holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli import completing, options
from toolchain.core import delivery
from toolchain.core.log import logger

if TYPE_CHECKING:
    from toolchain.core.store import Artifact, Store
    from toolchain.pipeline.run import Outcome

_TASK = click.option(
    "--task", default=None, shell_complete=completing.task,
    help="Task of a direct run: sst2, reviews, glue, or a YAML mapping. [default: that of the target, if it says]",
)  # fmt: skip
_TECHNIQUE = click.option(
    "-t", "--technique", shell_complete=completing.technique,
    help="Technique of a direct run; 'toolchain list techniques' shows them.",
)  # fmt: skip
_OUTPUT = click.option("-o", "--output", type=click.Path(path_type=Path), help="Copy the result here.")
_TOKENIZER = click.option("--tokenizer", help="Folder with tokenizer.json, when it is not beside the ONNX file.")


def whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a command that works on what it is given, whatever variants a recipe has."""
    for option in (
        options.verbosity, options.json_option, _OUTPUT, options.store_option, options.run_options,
        options.recipe_options, _TOKENIZER, _TASK,
    ):  # fmt: skip
        function = option(function)
    return function


def shared(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that all commands of stages have."""
    return whole(options.variant_option(function))


@click.command("finetune")
@click.argument("target", shell_complete=completing.recipe)
@shared
def finetune_command(target: str, **settings: Any) -> int:
    """Fine-tune a model on a task.

    TARGET is a recipe, or a model: a folder, a hub id, package:MODULE/FOLDER, or scratch:bert-2x128.
    """
    return _stage("finetune", [target], ["finetune"], settings)


@click.command("augment")
@click.argument("target", shell_complete=completing.recipe)
@_TECHNIQUE
@shared
def augment_command(target: str, technique: str | None, **settings: Any) -> int:
    """Make more training examples.

    TARGET is a recipe, or a checkpoint folder that labels them; then --technique says how they are made.
    """
    return _stage("augment", [target], _needed("augment", target, technique), settings)


@click.command("compress")
@click.argument("target", shell_complete=completing.recipe)
@_TECHNIQUE
@shared
def compress_command(target: str, technique: str | None, **settings: Any) -> int:
    """Compress a fine-tuned checkpoint in PyTorch.

    TARGET is a recipe, or a checkpoint folder; then --technique says what to do.
    """
    return _stage("compress", [target], _needed("compress", target, technique), settings)


@click.command("export")
@click.argument("target", shell_complete=completing.recipe)
@shared
def export_command(target: str, **settings: Any) -> int:
    """Export a checkpoint to ONNX and compare it with PyTorch.

    TARGET is a recipe, or a checkpoint folder.
    """
    return _stage("export", [target], ["export"], settings)


@click.command("optimize")
@click.argument("target", shell_complete=completing.recipe)
@_TECHNIQUE
@shared
def optimize_command(target: str, technique: str | None, **settings: Any) -> int:
    """Quantize or transform an ONNX graph.

    TARGET is a recipe, or an ONNX file or folder, or a checkpoint folder; then --technique says what to do.
    """
    return _stage("optimize", [target], _needed("optimize", target, technique), settings)


def _engine_option(text: str) -> Callable[[options.F], options.F]:
    """Return what adds ``--engine``, with its help."""
    return click.option("-e", "--engine", "engines", multiple=True, shell_complete=completing.engine, help=text)


@click.command("build")
@click.argument("target", shell_complete=completing.recipe)
@_engine_option(
    "Engine of a direct run [default: onnxruntime]; of a recipe, only this one: its name, or VARIANT/ENGINE."
)
@shared
def build_command(target: str, engines: tuple[str, ...], **settings: Any) -> int:
    """Build the engine that a runtime loads.

    TARGET is a recipe, or an ONNX file or folder, or a checkpoint folder. With a recipe, --variant and --engine choose
    exactly one engine, from the store where it was made; -o writes its complete folder.
    """
    return _stage("build", [target], [], settings, engines)


@click.command("benchmark")
@click.argument("targets", nargs=-1, required=True, shell_complete=completing.recipe)
@_engine_option("Engine of a direct run. [default: onnxruntime]")
@shared
def benchmark_command(targets: tuple[str, ...], engines: tuple[str, ...], **settings: Any) -> int:
    """Measure accuracy, size and speed of engines, and rank them.

    TARGETS is a recipe, or ONNX files or folders, engine folders, checkpoint folders: the first one is the baseline.
    """
    return _stage("time", list(targets), [], settings, engines)


def _stage(
    stage: str, targets: Sequence[str], items: Sequence[str], settings: dict[str, Any], engines: Sequence[str] = ()
) -> int:
    """Runs a plan up to a stage and shows what it has made."""
    from toolchain.cli.finishing import finish
    from toolchain.cli.recipes import print_preview
    from toolchain.core import registry
    from toolchain.pipeline import direct, run

    store: Store = settings["store"]
    timed = registry.stages()[stage].gives == "timing"
    with options.usage_errors():
        plan = direct.plan_of(stage, targets, items, options.asked(settings), engines)
    if settings["dry_run"]:
        return print_preview(plan, store, settings["as_json"], options.forced(settings["force"]))
    if settings["output"] and not timed:
        delivery.check_target(settings["output"])
    run.quiet_libraries()
    options.hold(store)
    outcome = run.execute(plan, store, force=options.forced(settings["force"]))
    if timed:
        return finish(outcome, store, settings["output"], settings["as_json"])
    return _show(outcome, stage, settings["output"], settings["as_json"])


def _needed(stage: str, target: str, technique: str | None) -> list[str]:
    """The technique of a direct run.

    Raises:
        click.UsageError: None is given, or it belongs to another stage.
    """
    from toolchain.core import registry
    from toolchain.pipeline.shipped import is_recipe

    if is_recipe(target):
        if technique:
            raise click.UsageError("--technique is for direct runs; a recipe names its own")
        return []
    known = registry.names(stage)
    if technique is None:
        raise click.UsageError(f"--technique is missing: {', '.join(known)}")
    if technique not in known:
        raise click.UsageError(f"--technique {technique}: {registry.suggest(technique, known)}")
    return [technique]


def _show(outcome: Outcome, stage: str, output: Path | None, as_json: bool) -> int:
    """Prints the artifacts that end their chain, and copies them."""
    if outcome.rank:
        return outcome.exit_code
    from toolchain.pipeline import direct

    ends = direct.ends(outcome.plan, stage)
    twice = [label for label, count in Counter(step.label for step in ends).items() if count > 1]
    rows = []
    for step in ends:
        artifact = outcome.artifacts.get(step.id)
        if artifact is None:
            continue
        where = output
        if output and len(ends) > 1:
            where = output / step.label.replace(" · ", "/")
            where = where.with_name(f"{where.name}-{artifact.key[:12]}") if step.label in twice else where
        rows.append(delivered(artifact, step.label, step.id in outcome.made, where))
    if as_json:
        options.echo_json(rows)
    else:
        for item in rows:
            options.echo(f"{item['kind']:10s} {item['label']:30s} {str(item['key'])[:12]}  {item['path']}")
    for reason in dict.fromkeys(outcome.failed.values()):
        logger.error("failed: %s", reason)
    return outcome.exit_code or _rejected(rows)


def delivered(artifact: Artifact, label: str, is_new: bool, where: Path | None) -> dict[str, Any]:
    """Copies an artifact to where the user wants it, if anywhere, and tells of it as ``--json`` does.

    Raises:
        ToolchainError: It cannot be copied there.
    """
    if where:
        delivery.copy(artifact, where)
    return {
        "label": label, "kind": artifact.kind, "key": artifact.key, "digest": artifact.digest,
        "path": str(where or artifact.path), "made": is_new,
        "metrics": artifact.metrics,
    }  # fmt: skip


def _rejected(rows: Sequence[dict[str, Any]]) -> int:
    """Name each graph whose pass changed more labels than it may; return 3 when no other graph is left."""
    from toolchain.measure import gates

    lost = [item for item in rows if (item["metrics"].get("parity") or {}).get("passed") is False]
    for item in lost:
        logger.warning(
            "rejected: %s: parity failed: %s", item["label"], gates.parity([item["metrics"]["parity"]], None).evidence
        )
    return 3 if lost and len(lost) == len(rows) else 0
