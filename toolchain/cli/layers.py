"""Commands on single layers: sensitivity measures what each costs, allocate makes settings within a budget of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli import completing, options, stages
from toolchain.core import delivery
from toolchain.core.errors import ToolchainError
from toolchain.core.log import logger

if TYPE_CHECKING:
    from toolchain.core.store import Store
    from toolchain.layers.prices import By, Measure

_PART = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command("sensitivity")
@click.argument("target", shell_complete=completing.recipe)
@stages.whole
def sensitivity_command(target: str, **settings: Any) -> int:
    """Measure on dev what each layer costs when a technique compresses it alone.

    TARGET is a fine-tuned checkpoint folder, or a recipe, whose first model is fine-tuned if need be. Settings are
    those of 'toolchain show sensitivity': --set sensitivity.bits=[8,4] tries two widths, sensitivity.heads=[] no heads.
    """
    from toolchain.cli.recipes import print_preview
    from toolchain.pipeline import plan as plans
    from toolchain.pipeline import run
    from toolchain.pipeline.direct import recipe_of
    from toolchain.pipeline.shipped import is_recipe

    store: Store = settings["store"]
    direct = not is_recipe(target)
    own, others = _own(settings["sets"], direct)
    with options.usage_errors():
        recipe = recipe_of([target], [], options.asked(settings | {"sets": others}))
    plan = plans.sensitivity(recipe, _config(own))
    force = options.forced(settings["force"])
    if settings["dry_run"]:
        return print_preview(plan, store, settings["as_json"], force)
    output: Path | None = settings["output"]
    if output:
        delivery.check_target(output)
    run.quiet_libraries()
    options.hold(store)
    outcome = run.execute(plan, store, force=force)
    if outcome.rank:
        return outcome.exit_code
    step = next(step for step in plan.steps.values() if step.kind == "sensitivity")
    artifact = outcome.artifacts.get(step.id)
    for reason in dict.fromkeys(outcome.failed.values()):
        logger.error("failed: %s", reason)
    if artifact is None:
        return outcome.exit_code
    if output:
        delivery.copy(artifact, output)
    from toolchain.deliver import layers

    record, _ = layers.read(str(artifact.path), store)
    where = str(output or artifact.path)
    if settings["as_json"]:
        about = {"label": step.label, "kind": artifact.kind, "key": artifact.key, "path": where}
        options.echo_json([{**about, "made": step.id in outcome.made, "metrics": artifact.metrics, "record": record}])
    else:
        options.print_rich(*layers.tables(record))
        options.echo(f"{artifact.kind} {artifact.key[:12]}  {where}")
    return outcome.exit_code


def _own(sets: Sequence[str], direct: bool) -> tuple[dict[str, Any], list[str]]:
    """The settings that are sensitivity's own, and the others; of a direct run, the names alone will do."""
    from toolchain.pipeline import document

    own, others = {}, []
    for text in sets:
        key, _, raw = text.partition("=")
        name = key.removeprefix("sensitivity.")
        if name != key or (direct and "." not in key and key not in document.KEYS):
            own[name] = document.parse_value(raw) if raw else ""
        else:
            others.append(text)
    return own, others


def _config(own: dict[str, Any]) -> Any:
    """The settings, validated.

    Raises:
        RecipeError: With every problem found.
    """
    from toolchain.core import registry
    from toolchain.pipeline.document import Document, Problems
    from toolchain.pipeline.settings import validate

    problems = Problems(Document({"sensitivity": own}, None))
    config = validate(problems, registry.stage("sensitivity").config, own, ("sensitivity",), "sensitivity")
    problems.raise_if_any()
    return config


@click.command("allocate")
@click.argument("sensitivity")
@click.option(
    "--size", type=_PART, metavar="PART", help="Part of the dense model's bytes that may remain, such as 0.5."
)
@click.option("--flops", type=_PART, metavar="PART", help="The same of its FLOPs.")
@click.option("--time", type=_PART, metavar="PART", help="The same of its time on ONNX Runtime, where it was measured.")
@click.option("--techniques", metavar="NAMES", help="Of heads,ffn,rank,sparsity,bits. [default: all but sparsity]")
@click.option(
    "--by",
    type=click.Choice(("divergence", "loss")),
    default="divergence",
    show_default=True,
    help="What is to be least on dev: the change of the probabilities, or the increase of the loss.",
)
@click.option("--model", metavar="SOURCE", help="With -o: the checkpoint, when the store does not have it.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write a whole recipe here.")
@options.store_option
@options.json_option
@options.verbosity
def allocate_command(
    sensitivity: str, size: float | None, flops: float | None, time: float | None, techniques: str | None,
    by: By, model: str | None, output: Path | None, store: Store, as_json: bool,
) -> int:  # fmt: skip
    """Give each layer the settings that cost the least on dev within a budget, as a variant of a recipe.

    SENSITIVITY is what 'toolchain sensitivity' has made: a folder, the start of its key, or sensitivity.json. With -o,
    a whole recipe is written, which runs it beside the dense model and the best single setting for all layers
    within the budget.
    """
    from toolchain.deliver import allocate as written
    from toolchain.deliver import layers
    from toolchain.layers import allocation

    budgets: dict[Measure, float | None] = {"size": size, "flops": flops, "time": time}
    given = {name: part for name, part in budgets.items() if part is not None}
    if len(given) != 1:
        raise click.UsageError("give one budget: --size 0.5, --flops 0.5 or --time 0.5")
    ((measure, part),) = given.items()
    record, _ = layers.read(sensitivity, store)
    if techniques is not None and not techniques.strip(" ,"):
        raise click.UsageError("--techniques is empty: name some of heads, ffn, rank, sparsity, bits")
    names = [name.strip() for name in techniques.split(",") if name.strip()] if techniques is not None else None
    chosen = allocation.chosen(record, measure, names)
    settings = allocation.allocate(record, measure, part, chosen, by)
    alike = allocation.uniform(record, measure, part, chosen, by)
    if output:
        if output.suffix not in (".yaml", ".yml") or output.exists():
            why = "it exists" if output.exists() else "a recipe's name ends in .yaml"
            raise ToolchainError(f"-o {output}: {why}", "choose another")
        text = written.recipe(record, settings, alike, model or _checkpoint(record, store), output.stem)
        with delivery.writing(output):
            output.write_text(text, "utf-8")
        logger.info("written: %s; toolchain run %s", output, output)
    if as_json:
        options.echo_json(written.as_json(record, settings, alike))
    else:
        options.echo(written.variants(record, settings, alike), nl=False)
    return 0


def _checkpoint(record: Mapping[str, Any], store: Store) -> str:
    """The folder of the checkpoint that was measured.

    Raises:
        ToolchainError: The store does not have it.
    """
    checkpoint = store.find("checkpoint", str(record["checkpoint"]))
    if checkpoint is None:
        raise ToolchainError(
            f"the store {store.root} does not have the checkpoint {str(record['checkpoint'])[:12]} that was measured",
            "name the store with --store FOLDER, or the checkpoint with --model FOLDER",
        )
    store.check(checkpoint)
    return str(checkpoint.path.resolve())
