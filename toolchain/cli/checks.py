"""What ``--check`` and ``--junit`` do around a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolchain.core import delivery
from toolchain.core.log import logger

if TYPE_CHECKING:
    from toolchain.core.store import Store
    from toolchain.deliver.check import Check
    from toolchain.deliver.report import Report
    from toolchain.pipeline.plan import Plan
    from toolchain.pipeline.run import Outcome


def clear(check: bool, junit: Path | None, only: Sequence[str] = ()) -> None:
    """Takes away the file of an earlier run: whatever happens, it is not read for this one's."""
    if check and only:
        raise click.UsageError("--check holds all engines of a recipe to its bounds, and --variant leaves some out")
    if junit and not check:
        raise click.UsageError("--junit writes what --check finds: give both")
    if junit and junit.is_file():
        with delivery.writing(junit, "--junit"):
            junit.unlink()


def need_rules(plan: Plan, check: bool) -> None:
    """Holds that there is something to check, before any work."""
    from toolchain.pipeline import bounds

    if check:
        bounds.need_rules(plan.recipe.check, plan.recipe.name)


def write(
    judged: Sequence[Check], outcome: Outcome, ranked: Report | None, store: Store, folders: Sequence[Path],
    junit: Path | None,
) -> None:  # fmt: skip
    """Write the checks beside the reports, and where ``--junit`` asks for them."""
    from toolchain import __version__
    from toolchain.deliver import check as checks

    name = outcome.plan.recipe.name
    machine = ranked.machine if ranked else {}
    facts = {"toolchain": __version__, **{key: machine[key] for key in ("cpu", "gpus") if machine.get(key)}}
    for folder in folders:
        with store.errors() if store.root in folder.parents else delivery.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            checks.write(judged, name, facts, folder)
    if junit:
        with delivery.writing(junit, "--junit"):
            junit.parent.mkdir(parents=True, exist_ok=True)
            junit.write_bytes(checks.to_junit(judged, name, facts))


def broken(judged: Sequence[Check]) -> int:
    """3 when an engine broke a bound."""
    from toolchain.deliver import check as checks

    for each in checks.missed(judged):
        logger.error("check failed: %s", each.message)
    if judged:
        logger.info("checks: %s", checks.counted(judged))
        if all(each.state == "skipped" for each in judged):
            logger.warning("checks: nothing was judged; require: true makes an engine that cannot run here fail")
    return 3 if checks.missed(judged) else 0
