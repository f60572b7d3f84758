"""The command that answers which engine fits limits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli import completing, options

if TYPE_CHECKING:
    from collections.abc import Callable

    from toolchain.core.store import Store
    from toolchain.pipeline.limits import Limits


def _held_by(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add which engines may be chosen, and how limits are held."""
    for option in (
        click.option(
            "--confident/--as-measured", "confident", default=None,
            help="Hold limits at the worse end of their 95 % intervals [default], or as measured.",
        ),
        click.option(
            "--engine", "patterns", multiple=True, metavar="PATTERN",
            help="Only engines that fit: a variant, an engine, or variant/engine; may be given several times.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


@click.command("choose")
@click.argument("target", type=click.Path(path_type=Path), shell_complete=completing.recipe)
@options.limit_options
@_held_by
@options.recipe_options
@options.store_option
@options.json_option
@options.verbosity
def choose_command(
    target: Path, size_mb: float | None, latency_ms: float | None, per_s: float | None, at: str | None,
    drop: float | None, accuracy: float | None, patterns: tuple[str, ...], confident: bool | None,
    sets: tuple[str, ...], models: tuple[str, ...], data: str | None, store: Store, as_json: bool,
) -> int:  # fmt: skip
    """Choose the engine that fits limits, or say that none does and which are nearest.

    TARGET is a recipe that was run, or a report (its folder or report.json). Limits that are not given are those of the
    recipe's key limits; where none is about accuracy, an engine must keep 99 % of the best baseline's. Of the engines
    that fit the fastest is taken. Nothing is run or written. Exit code 3 when no engine fits.
    """
    from toolchain.deliver import choose

    given: dict[str, Any] = {"engines": patterns or None, "confident": confident}
    given |= options.given_limits(size_mb, latency_ms, per_s, at, drop, accuracy)
    report = _report(target, sets, models, data, store)
    limits = dataclasses.replace(_own(report), **{name: value for name, value in given.items() if value is not None})
    _check(report, limits)
    choice = choose.choose(report, limits, options.store_named(store))
    engine = store.find("engine", choice.chosen.engine_key) if choice.chosen else None
    if engine:
        store.check(engine)
    folder = str(engine.path) if engine else ""
    if as_json:
        options.echo_json(choose.to_json(choice, folder))
    else:
        options.print_rich(*choose.render(choice, report, folder))
    return 0 if choice.chosen else 3


def _report(
    target: Path, sets: tuple[str, ...], models: tuple[str, ...], data: str | None, store: Store
) -> dict[str, Any]:
    """Return the report of a recipe from what the store has, or a written one."""
    from toolchain.deliver.report import kept

    if target.suffix == ".json" or target.is_dir():
        if sets or models or data:
            raise click.UsageError("--set, --model and --data are for a recipe; a report is as it was written")
        return kept.read(target)
    from toolchain.cli.finishing import finished
    from toolchain.deliver import ranking
    from toolchain.deliver import report as reports
    from toolchain.pipeline import plan
    from toolchain.pipeline import recipe as recipes

    outcome = finished(target, plan.make(recipes.load(target, sets, models, data)), store)
    return reports.to_json(ranking.rank(outcome, options.again()))


def _own(report: dict[str, Any]) -> Limits:
    """Return the limits that a report was made with; older ones have none."""
    from toolchain.pipeline.limits import Limits

    known = {field.name for field in dataclasses.fields(Limits)}
    values = {name: value for name, value in (report.get("limits") or {}).items() if name in known}
    return Limits(**{**values, "engines": tuple(values.get("engines") or ())})


def _check(report: dict[str, Any], limits: Limits) -> None:
    """Raise UsageError where a limit is about something that the report does not have."""
    from toolchain.core.registry import suggest
    from toolchain.deliver.report.page.lines import settings_of
    from toolchain.pipeline.bounds import fits

    batches = [setting for setting in settings_of(report["lines"]) if setting != "batch 1"]
    if limits.per_s is not None and not batches:
        raise click.UsageError("--per-s: only batch 1 was timed; run with --set 'benchmark.batch_sizes=[1, 32]'")
    if limits.at is not None and limits.at not in batches:
        raise click.UsageError(f"--at {limits.at!r} was not timed: {suggest(limits.at, batches)}")
    lines = report["lines"]
    for pattern in limits.engines:
        if not any(fits(pattern, line["model"], line["variant"], line["engine"]) for line in lines):
            names = [str(line["name"]) for line in lines]
            raise click.UsageError(f"--engine: no engine fits {pattern!r}: {suggest(pattern, names)}")
