"""What stands at the end of a run: the report on the screen and in files, the checks, and the exit code."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.cli import checks, options
from toolchain.core import delivery
from toolchain.core.errors import GateError, ToolchainError
from toolchain.core.files import check_output
from toolchain.core.log import logger

if TYPE_CHECKING:
    from toolchain.core.store import Store
    from toolchain.deliver.report import Report
    from toolchain.pipeline.plan import Plan
    from toolchain.pipeline.run import Outcome


def finished(recipe: Path, plan: Plan, store: Store, *, by_variant: bool = False) -> Outcome:
    """Return the outcome of a recipe that was run to its end, from what the store has.

    Args:
        recipe: Its file.
        plan: Its plan.
        store: Where the artifacts lie.
        by_variant: Whether the command has the option ``--variant``.

    Raises:
        ToolchainError: It has not been run to its end on this machine; or what the store has is damaged.
    """
    from toolchain.pipeline import run

    outcome, status = run.preview(plan, store)
    outcome.refuse_damaged(options.again(store=True))
    if plan.time not in outcome.artifacts:
        missing = [plan.steps[step].label for step, state in status.items() if state != "hit"]
        some = by_variant and any(row.evaluate in outcome.artifacts for row in plan.rows)
        part = "; or name variants that were timed together: --variant NAME" if some else ""
        raise ToolchainError(
            f"{recipe}: {len(missing)} of {len(plan.steps)} steps have not been run on this machine: "
            f"{', '.join(list(dict.fromkeys(missing))[:4])}",
            f"{options.again(store=True)}{part}",
        )
    return outcome


def finish(
    outcome: Outcome, store: Store, output: Path | None, as_json: bool, check: bool = False, junit: Path | None = None,
    *, keep: bool = True,
) -> int:  # fmt: skip
    """Print and write the report of a run, and return the exit code.

    A candidate that a gate rejected is a result: 0 when something sound can be shipped, 3 when nothing is left or a
    bound is broken, 1 when a step failed for another reason.

    Args:
        outcome: The run, or a preview in which the store has everything.
        store: Its folder ``reports/NAME`` is written to.
        output: Another folder to write the report to.
        as_json: Print JSON.
        check: Hold the engines to the recipe's bounds.
        junit: Another file to write the checks to.
        keep: Whether the store's report is written; where limits and weights are played with it stays as it is.
    """
    from toolchain.deliver import check as judging
    from toolchain.deliver import ranking, report

    if outcome.rank:
        return outcome.exit_code
    stored = store.root / "reports" / outcome.plan.recipe.name
    folders = [*([stored] if keep else []), *([output] if output else [])]
    try:
        ranked = ranking.rank(outcome, options.again())
    except ToolchainError:
        if check:  # whoever reads the checks must find no report or checks of another run
            for old in stored.glob("report.*") if keep else ():
                old.unlink()
            checks.write(judging.judge(outcome, None), outcome, None, store, folders, junit)
        raise
    if keep:
        with store.errors():
            stored.mkdir(parents=True, exist_ok=True)
            check_output(stored, "the report's folder")
            report.write(ranked, stored)
            for name in judging.FILES:
                (stored / name).unlink(missing_ok=True)  # of another run
    if output:
        with delivery.writing(output):
            output.mkdir(parents=True, exist_ok=True)
            report.write(ranked, output)
    judged = judging.judge(outcome, ranked) if check else []
    if check:
        checks.write(judged, outcome, ranked, store, folders, junit)
    if as_json:
        options.echo_json(report.to_json(ranked) | ({"checks": judging.to_json(judged)} if check else {}))
    else:
        page = _page(output, stored, keep)
        folder = output or (stored if keep else None)
        command = _take(ranked, store) if ranked.recommendations else _choose(folder)
        screen = report.terminal(ranked, command=command, page=page, verbose=options.verbose())
        options.print_rich(screen, *([judging.table(judged)] if check else []))
    logger.info("%d steps run, %d from the store, %.1f s", len(outcome.made), outcome.hits, outcome.seconds)
    for reason in dict.fromkeys(outcome.failed.values()):
        logger.error("failed: %s", reason)
    if outcome.exit_code not in (0, GateError.exit_code):
        return outcome.exit_code
    return checks.broken(judged) or (3 if all(line.barred for line in ranked.lines) else 0)


def _page(output: Path | None, stored: Path, keep: bool) -> str:
    """Return where the page is, or how to get one."""
    from toolchain.deliver.report.page import PAGE

    if output or keep:
        return f"{output or stored}/{PAGE}"
    return f"{stored}/{PAGE} of the last run" if (stored / PAGE).is_file() else "-o FOLDER writes one"


def _choose(folder: Path | None) -> str:
    """Return the command that says what each engine of a report lacks; empty where the report is in no folder."""
    return f"toolchain choose {shlex.quote(str(folder))}" if folder else ""


def _take(ranked: Report, store: Store) -> str:
    """Return the command that writes the engine to ship into a folder, or where it lies."""
    from toolchain.deliver.report.take import take

    lines = [
        {part: getattr(line.row, part) for part in ("model", "variant", "engine", "seed")} for line in ranked.lines
    ]
    at = next(place for place, line in enumerate(ranked.lines) if line.name == ranked.recommendations[0].name)
    command = take(str(ranked.made.get("command", "")), lines[at], lines, options.store_named(store))
    return command or f"the folder {store.root}/engine/{ranked.lines[at].row.engine_key}"
