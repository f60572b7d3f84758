"""Commands on the store and on the machine: verify, import, gc, doctor, completion."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolchain.cli import completing, options
from toolchain.core import log
from toolchain.core.errors import ToolchainError

if TYPE_CHECKING:
    from toolchain.core.store import Artifact, Store


@click.command("verify")
@click.argument("references", nargs=-1)
@click.option("--root", metavar="DIGEST", help="The root digest that the store must have, as this command printed it.")
@options.store_option
@options.json_option
@options.verbosity
def verify_command(references: tuple[str, ...], root: str | None, store: Store, as_json: bool) -> int:
    """Compare artifacts with their manifests, every byte, and manifests with their keys and with each other.

    REFERENCES are keys or folders; without any, everything in the store: then one root digest is printed. Keep it
    elsewhere, and give it as --root: it shows whatever was added, removed or changed since. Exit code 1 where something
    is not as it was published.
    """
    from toolchain.core.verify import verify

    if root is not None and references:
        raise click.UsageError("--root is the digest of the whole store: name no artifacts")
    result = verify(store, [store.resolve(reference) for reference in references] if references else None)
    wrong = [line for lines in result.problems.values() for line in lines]
    if root is not None and root != result.root:
        wrong.append(f"the root digest is {result.root}, and not {root}: something was added, removed or changed since")
    if as_json:
        options.echo_json({"problems": result.problems, "notes": result.notes, "root": result.root or None})
        return 1 if wrong else 0
    for line in wrong:
        options.echo(line, err=True)
    for line in result.notes:
        options.echo(f"note: {line}", err=True)
    bad = len(result.problems)
    state = f"{bad} not as published" if bad else "all as published" if not wrong else "the root differs"
    options.echo(f"{len(result.artifacts)} artifacts, {result.size_bytes / 1e6:,.1f} MB: {state}")
    if result.root:
        options.echo(f"root {result.root}")
    return 1 if wrong else 0


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path), metavar="STORE")
@options.store_option
@options.json_option
@options.verbosity
def import_command(source: Path, store: Store, as_json: bool) -> int:
    """Take from another machine's STORE what was trained there, so that a run here does not train it again.

    STORE is a copy of that machine's store, or of parts of it. Checkpoints, augmented texts and teachers' answers are
    taken, whatever versions of PyTorch they were made with; graphs, engines and measurements are made here.
    """
    from toolchain.pipeline import transfer

    taken = []
    for artifact, new in transfer.take(source, store):
        taken.append({"kind": artifact.kind, "key": artifact.key, "label": artifact.manifest["label"], "new": new})
        if not as_json:
            verb = "taken" if new else "there already"
            options.echo(f"{artifact.kind:10s} {artifact.key[:12]}  {artifact.manifest['label']}: {verb}")
    if as_json:
        options.echo_json(taken)
    return 0


@click.command("gc")
@click.argument("recipes", type=options.RECIPE, nargs=-1, shell_complete=completing.recipe)
@options.recipe_options
@options.free_store_option
@click.option("--all", "everything", is_flag=True, help="Remove every artifact.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--wait", is_flag=True, help="Wait until no other command uses the store. [default: stop]")
@options.json_option
@options.verbosity
def gc_command(
    recipes: tuple[Path, ...], sets: tuple[str, ...], models: tuple[str, ...], data: str | None, store: Store,
    everything: bool, yes: bool, dry_run: bool, wait: bool, as_json: bool,
) -> int:  # fmt: skip
    """Keep what the named RECIPES need, and remove everything else from the store.

    What is kept and what would be removed is listed with its size, and nothing is removed before you agree. What
    interrupted runs left goes too. What is damaged is named and stays: exit code 1. While another command uses the
    store, nothing is removed.
    """
    if bool(recipes) == everything:
        raise click.UsageError("name the recipes whose artifacts stay, or --all to remove everything")
    keep = _needed(recipes, sets, models, data, store)
    staying, damaged = [artifact for artifact in store.artifacts([]) if artifact.key in keep], list[str]()
    gone, freed = store.gc(keep, dry_run=True, damaged=damaged)
    removes = dry_run or yes or not freed
    if not as_json:
        options.echo("\n".join(_gc_lines(staying, gone, freed, recipes)))
        removes = removes or (sys.stdin.isatty() and click.confirm("Remove them?"))
    if not removes:
        refusal = "nothing is removed" if sys.stdin.isatty() and not as_json else "nothing is removed without a yes"
        raise ToolchainError(
            refusal, f"the same command with --yes removes {freed / 1e6:,.1f} MB; --dry-run only lists"
        )
    if not dry_run:
        gone, freed = store.gc(keep, only=[artifact.key for artifact in gone], wait=wait, damaged=[])
    if as_json:
        options.echo_json({"removed": [artifact.key for artifact in gone], "bytes": freed, "kept": len(staying)})
    elif freed:
        verb = "would remove" if dry_run else "removed"
        options.echo(f"{verb} {_count(gone)}, {freed / 1e6:,.1f} MB; {len(staying)} kept")
    for message in damaged:
        options.echo(f"damaged, and left: {message}", err=True)
    return 1 if damaged else 0


def _needed(
    recipes: Sequence[Path], sets: Sequence[str], models: Sequence[str], data: str | None, store: Store
) -> set[str]:
    """Return the keys of what recipes need, and of times of the engines that stay."""
    from toolchain.pipeline import plan, run
    from toolchain.pipeline import recipe as loader

    keep: set[str] = set()
    for path in recipes:
        outcome, _ = run.preview(plan.make(loader.load(path, sets, models, data)), store, compare=False)
        keep |= {artifact.key for artifact in outcome.artifacts.values()}
    # Times of some of the engines that stay, by run --variant: minutes of measuring, and a few kilobytes.
    timings = (artifact for artifact in store.artifacts([]) if artifact.kind == "timing")
    return keep | {timing.key for timing in timings if set(timing.manifest["parents"]) <= keep}


def _gc_lines(staying: Sequence[Artifact], gone: Sequence[Artifact], freed: int, recipes: Sequence[Path]) -> list[str]:
    """Return what stays and what goes, each with its size."""
    needed = f", which {', '.join(map(str, recipes))} need{'s' if len(recipes) == 1 else ''}" if recipes else ""
    size = sum(artifact.size_bytes for artifact in staying)
    lines = [f"keeps {_count(staying)}, {size / 1e6:,.1f} MB{needed}"]
    if not freed:
        return [*lines, "nothing to remove"]
    lines.append(f"removes {_count(gone)}, {freed / 1e6:,.1f} MB:")
    for artifact in gone:
        size_mb = f"{artifact.size_bytes / 1e6:,.2f} MB"
        lines.append(f"  {artifact.kind:11s} {artifact.key[:12]} {size_mb:>12s}  {artifact.manifest.get('label', '')}")
    left = freed - sum(artifact.size_bytes for artifact in gone)
    return [*lines, f"  what interrupted runs left: {left / 1e6:,.2f} MB"] if left else lines


def _count(artifacts: Sequence[Artifact]) -> str:
    return f"{len(artifacts)} artifact{'' if len(artifacts) == 1 else 's'}"


@click.command("doctor")
@options.store_option
@click.option(
    "--engine",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Say only whether this engine can run here: exit code 1 and the reason where it cannot.",
)
@click.option("--open", "opened", is_flag=True, help="With --engine: open it too, and let it answer a sentence.")
@click.option(
    "--digest", metavar="DIGEST", help="With --engine: the digest that its content must have, as its builder knows it."
)
@options.json_option
@options.verbosity
def doctor_command(store: Store, engine: Path | None, opened: bool, digest: str | None, as_json: bool) -> int:
    """Say what this machine can build and run, what is missing, and the command that adds it."""
    from toolchain.deliver import doctor

    if (opened or digest) and engine is None:
        raise click.UsageError(f"{'--open' if opened else '--digest'} is for the engine that --engine names")
    if engine is not None:
        return _examine(engine, opened, digest, as_json)
    diagnosis = doctor.diagnose(store.root)
    if as_json:
        options.echo_json(diagnosis)
    else:
        options.print_rich(doctor.render(diagnosis, verbose=log.logger.isEnabledFor(logging.DEBUG)))
    return 1 if diagnosis["problems"] else 0


def _examine(folder: Path, opened: bool, digest: str | None, as_json: bool) -> int:
    """Says that an engine can run here; that it cannot is an error."""
    from toolchain.deliver import health

    record = health.examine(folder, opened=opened, digest=digest)
    if as_json:
        options.echo_json(record)
    else:
        named = f"{record['engine']} ({record['provider']})" if record["provider"] else record["engine"]
        answered = f", and answers {health.QUESTION!r} with {record['label']!r}" if opened else ""
        options.echo(f"{folder}: {named} can run here{answered}")
        if record["note"]:
            options.echo(f"note: {record['note']}", err=True)
    return 0


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion_command(shell: str) -> int:
    """Print the completion script of a SHELL: eval "$(toolchain completion bash)"."""
    from click.shell_completion import get_completion_class

    from toolchain.cli import cli

    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(completion(cli, {}, "toolchain", "_TOOLCHAIN_COMPLETE").source())
    return 0
