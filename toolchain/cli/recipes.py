"""Commands on recipes: run, validate, explain, report."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli import checks, completing, options
from toolchain.cli.finishing import finish, finished
from toolchain.core import delivery
from toolchain.core.errors import ToolchainError
from toolchain.core.failure import SCREEN_CHARACTERS, SCREEN_LINES, shorten
from toolchain.core.log import logger

if TYPE_CHECKING:
    from toolchain.core.store import Store
    from toolchain.pipeline.plan import Plan
    from toolchain.pipeline.run import Outcome


#: Keys that change how engines are judged, and nothing that is measured: playing with them keeps the stored report.
_JUDGING = frozenset({"check", "limits", "report"})


@click.command("run")
@click.argument("recipe", type=options.RECIPE, shell_complete=completing.recipe)
@options.recipe_options
@options.variant_option
@options.run_options
@options.check_options
@options.store_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the report here too.")
@options.json_option
@options.verbosity
def run_command(
    recipe: Path, sets: tuple[str, ...], models: tuple[str, ...], data: str | None, variants: tuple[str, ...],
    store: Store, threads: int | None, force: str | None, dry_run: bool, check: bool, junit: Path | None,
    output: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Run a whole RECIPE and print the ranked table of its engines.

    What the store has is not done again; what was interrupted goes on where it stopped. The report is written into the
    store's folder reports/NAME, unless --set changes limits, weights or bounds: then only -o writes one.
    """
    from toolchain.pipeline import plan as plans
    from toolchain.pipeline import recipe as recipes
    from toolchain.pipeline import run

    checks.clear(check, junit, variants)
    plan = plans.make(recipes.load(recipe, options.with_threads(sets, threads), models, data), only=variants)
    checks.need_rules(plan, check)
    if dry_run:
        return print_preview(plan, store, as_json, options.forced(force))
    run.quiet_libraries()
    options.hold(store)
    outcome = run.execute(plan, store, force=options.forced(force))
    keep = not any(text.partition("=")[0].split(".")[0] in _JUDGING for text in sets)
    return finish(outcome, store, output, as_json, check, junit, keep=keep)


@click.command("validate")
@click.argument("recipes", type=options.RECIPE, nargs=-1, required=True, shell_complete=completing.recipe)
@options.recipe_options
@options.json_option
@options.verbosity
def validate_command(
    recipes: tuple[Path, ...], sets: tuple[str, ...], models: tuple[str, ...], data: str | None, as_json: bool
) -> int:
    """Check RECIPES: every problem at once, each with its place. No model is loaded and nothing is run.

    Then what they name is looked at: data files (read whole), model folders, labels of the model against those of the
    data, packages.
    """
    from toolchain.pipeline import document, inputs
    from toolchain.pipeline import plan as plans
    from toolchain.pipeline import recipe as loader

    results: list[dict[str, Any]] = []
    for path in recipes:
        try:
            written = document.read(path)
            recipe = loader.parse(written, sets, models, data)
            plan = plans.make(recipe)
            packages = inputs.check(written, recipe)
        except ToolchainError as error:
            problems = [line for line in str(error).splitlines() if not re.fullmatch(r"\d+ problems", line)]
            results.append({"recipe": str(path), "valid": False, "problems": problems})
            continue
        results.append(
            {
                "recipe": str(path), "valid": True, "steps": len(plan.steps),
                "engines": [row.name for row in plan.rows], "not_applicable": dict(plan.not_applicable),
                "not_run": {row.name: reason for row, reason in plan.not_run}, "packages": packages,
                "task": recipe.task.label, "task_named": "task" in written.value,
            }
        )  # fmt: skip
    if as_json:
        options.echo_json(results)
    for result in results if not as_json else ():
        if result["valid"]:
            options.echo(f"{result['recipe']}: valid, {result['steps']} steps, {len(result['engines'])} engines")
            if not result["task_named"]:
                options.echo(f"  task: {result['task']}, the embedded ones: the recipe names none")
            for name, reason in result["not_applicable"].items():
                options.echo(f"  {name}: not applicable: {reason}")
            for name, reason in result["not_run"].items():
                options.echo(f"  {name}: will be built, not run: {reason}")
            for line in result["packages"]:
                options.echo(f"  {line}")
        else:
            text = "\n".join(result["problems"])
            options.echo(shorten(text, SCREEN_LINES, SCREEN_CHARACTERS), err=True)
    return 0 if all(result["valid"] for result in results) else 1


@click.command("report")
@click.argument("targets", type=click.Path(path_type=Path), nargs=-1, required=True, shell_complete=completing.recipe)
@options.recipe_options
@options.variant_option
@options.check_options
@options.store_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the report or the comparison here too.")
@options.json_option
@options.verbosity
def report_command(
    targets: tuple[Path, ...], sets: tuple[str, ...], models: tuple[str, ...], data: str | None,
    variants: tuple[str, ...], store: Store, check: bool, junit: Path | None, output: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Print the ranked table of a recipe, or set reports side by side; nothing is run, and only -o writes.

    TARGETS is a recipe, whose table is made from what the store has; or reports (their folders or report.json), of one
    machine or of several: sizes are compared everywhere, accuracies on one test set, times on one machine, and no ratio
    is formed across machines. With -o, one report is drawn again (report.html and its pictures), several become
    comparison.html, .md and .json.
    """
    from toolchain.pipeline import plan as plans
    from toolchain.pipeline import recipe as recipes

    recipe = targets[0]
    if all(target.suffix == ".json" or target.is_dir() for target in targets):
        if sets or models or data or variants or check or junit:
            raise click.UsageError(
                "--set, --model, --data, --variant, --check and --junit are for a recipe; reports are as they were "
                "written"
            )
        return _compare(targets, output, as_json)
    if len(targets) > 1:
        raise click.UsageError(
            f"a recipe stands alone; several targets are reports, and these are neither folder nor report.json: "
            f"{', '.join(str(t) for t in targets if t.suffix != '.json' and not t.is_dir())}"
        )
    checks.clear(check, junit, variants)
    plan = plans.make(recipes.load(recipe, sets, models, data), only=variants)
    checks.need_rules(plan, check)
    return finish(finished(recipe, plan, store, by_variant=True), store, output, as_json, check, junit, keep=False)


def _compare(paths: Sequence[Path], output: Path | None, as_json: bool) -> int:
    """Prints reports side by side and, with an output, draws one again or writes the comparison of several."""
    from toolchain.deliver import report
    from toolchain.deliver.report import compare_text, kept, page

    reports = [kept.read(path) for path in paths]
    comparison = report.compare(reports, kept.labels(reports, paths))
    if output:
        with delivery.writing(output):
            output.mkdir(parents=True, exist_ok=True)
            if len(reports) == 1:
                page.write(reports[0], output)
                logger.info("drawn again: %s/%s%s", output, page.PAGE, _no_png())
            else:
                page.write_comparison(comparison, output)
    if as_json:
        options.echo_json(comparison)
    else:
        options.echo(compare_text.markdown(comparison), nl=False)
    return 0


@click.command("explain")
@click.argument("target", shell_complete=completing.recipe)
@options.recipe_options
@options.variant_option
@options.store_option
@options.json_option
@options.verbosity
def explain_command(
    target: str,
    sets: tuple[str, ...],
    models: tuple[str, ...],
    data: str | None,
    variants: tuple[str, ...],
    store: Store,
    as_json: bool,
) -> int:
    """Explain a recipe's plan, how an artifact came to be, and what the gates say of each engine.

    TARGET is a recipe (its steps, what the store has of them, what cannot be combined and why), a report (its folder or
    report.json), or an artifact's key or folder (its history, and what it was made from). Then, for each engine: why it
    is ranked and recommended or not, its chain of passes, its settings, and every gate with its evidence. Exit code 3
    when no engine came through parity, fusion, placement and invariance.
    """
    from toolchain.deliver import explain
    from toolchain.pipeline import plan as plans
    from toolchain.pipeline import recipe as recipes
    from toolchain.pipeline.shipped import is_recipe

    path = Path(target)
    if is_recipe(target):
        return _explain_recipe(plans.make(recipes.load(path, sets, models, data), only=variants), store, as_json)
    if sets or models or data or variants:
        raise click.UsageError("--set, --model, --data and --variant are for a recipe; what was made is as it is")
    if path.suffix == ".json" or (path / explain.REPORT_FILE).is_file():
        return _explain_report(path, as_json)
    from toolchain.cli.listing import describe

    artifact = store.resolve(target)
    store.check(artifact)
    lineage, absent = explain.lineage(artifact, store)
    engines = explain.of_artifact(artifact, store)
    if as_json:
        lines = [a.manifest for a in reversed(lineage)]
        options.echo_json({"lineage": lines, "absent": absent, "engines": explain.to_json(engines)})
    else:
        for item in reversed(lineage):
            options.print_rich(*describe(item), "")
        if absent:
            options.echo(f"not in this store: {', '.join(key[:12] for key in absent)}\n")
        options.print_rich(*explain.render(engines))
    return 3 if explain.nothing_sound(engines) else 0


def _explain_recipe(plan: Plan, store: Store, as_json: bool) -> int:
    """Explains the plan of a recipe, and those of its engines that the store has evaluated."""
    from toolchain.deliver import explain, ranking, report
    from toolchain.pipeline import run

    outcome, status = run.preview(plan, store)
    outcome.refuse_damaged(options.again(store=True))
    evaluated = any(row.evaluate in outcome.artifacts for row in plan.rows)
    engines = explain.of_report(report.to_json(ranking.rank(outcome))) if evaluated else []
    show_preview(plan, store, outcome, status, as_json, {"engines": explain.to_json(engines)})
    if not as_json:
        options.print_rich("", *explain.render(engines))
        waiting = [row.name for row in plan.rows if row.evaluate not in outcome.artifacts]
        if waiting:
            options.echo(f"not run yet: {', '.join(waiting)}: {options.again(store=True)}")
    return 3 if explain.nothing_sound(engines) else 0


def _explain_report(path: Path, as_json: bool) -> int:
    """Explains the engines of a written report."""
    from toolchain.deliver import explain

    report = explain.read_report(path)
    engines = explain.of_report(report)
    apart = {
        "not_applicable": report["not_applicable"], "not_run": report.get("not_run", []), "failed": report["failed"],
    }  # fmt: skip
    if as_json:
        options.echo_json({"engines": explain.to_json(engines), **apart})
        return 3 if explain.nothing_sound(engines) else 0
    options.print_rich(*explain.render(engines))
    for item in apart["not_applicable"]:
        options.echo(f"not applicable: {item['name']}: {item['reason']}")
    for item in apart["not_run"]:
        options.echo(f"not run: {item['name']}: {item['reason']}")
    for item in apart["failed"]:
        options.echo(f"failed: {item['name']}: {item['error']}")
    return 3 if explain.nothing_sound(engines) else 0


def print_preview(plan: Plan, store: Store, as_json: bool, force: Collection[str] = ()) -> int:
    """Prints what a run of the plan would find and do."""
    from toolchain.pipeline import run

    show_preview(plan, store, *run.preview(plan, store, force), as_json)
    return 0


def show_preview(
    plan: Plan, store: Store, outcome: Outcome, status: Mapping[str, str], as_json: bool,
    more: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Print a preview of a plan, with what it may take; JSON takes more keys beside it."""
    from toolchain.pipeline.estimate import estimates, summary

    missing = [step for step in plan.steps.values() if status[step.id] != "hit"]
    taken = estimates(missing, store)
    steps: list[dict[str, Any]] = [
        {
            "stage": step.stage, "label": step.label, "technique": step.technique.name, "status": status[step.id],
            "key": outcome.artifacts[step.id].key if step.id in outcome.artifacts else None,
            "estimated_s": taken[step.id].seconds if step.id in taken else None,
            "estimated_bytes": taken[step.id].bytes if step.id in taken else None,
        }
        for step in plan.steps.values()
    ]  # fmt: skip
    if as_json:
        options.echo_json({"steps": steps, "not_applicable": dict(plan.not_applicable), **(more or {})})
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("stage", "what", "status", "key"):
        table.add_column(column, no_wrap=column != "what")
    for step in steps:
        table.add_row(step["stage"], step["label"], step["status"], (step["key"] or "")[:12])
    options.print_rich(table)
    hits = sum(state == "hit" for state in status.values())
    options.echo(f"\n{len(steps)} steps: {hits} in the store, {len(steps) - hits} to run")
    if missing:
        options.echo(summary(taken, len(missing)))
    for name, reason in plan.not_applicable:
        options.echo(f"not applicable: {name}: {reason}")
    for row, reason in plan.not_run:
        options.echo(f"built, not run: {row.name}: {reason}")


def _no_png() -> str:
    """Says so where the figures are SVG alone."""
    from toolchain.deliver.report.page import raster

    return "" if raster.available() else f" (figures as .svg; as .png too with 'toolchain[{raster.EXTRA}]')"
