"""Commands that look, and those on the store: list, show, verify, import, gc, doctor, completion."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli import options
from toolchain.core import registry
from toolchain.core.errors import ToolchainError

if TYPE_CHECKING:
    from toolchain.core.store import Artifact, Store

_WHAT = ("techniques", "engines", "tasks", "recipes", "artifacts")


@click.command("list")
@click.argument("what", type=click.Choice(_WHAT), required=False)
@options.store_option
@options.json_option
@options.verbosity
def list_command(what: str | None, store: Store, as_json: bool) -> int:
    """List techniques, engines, tasks, recipes, or the store's artifacts."""
    chosen = (what,) if what else _WHAT[:-1]
    found = {name: list(_listed(name, store)) for name in chosen}
    if as_json:
        options.echo_json(found)
        return 0
    from rich.table import Table

    for name, rows in found.items():
        table = Table(title=name, title_justify="left", box=None, show_header=False, title_style="bold")
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        options.print_rich(table if rows else f"{name}: none", "")
    return 0


@click.command("show")
@click.argument("name")
@options.store_option
@options.json_option
@options.verbosity
def show_command(name: str, store: Store, as_json: bool) -> int:
    """Show a technique's settings, a task's, an engine's, a recipe as validated, or an artifact's manifest.

    NAME is a name from 'toolchain list', a recipe file, or an artifact's key or folder.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return _show_recipe(Path(name), as_json)
    technique = next((registry.get(f, name) for f in registry.FOLDERS if name in registry.names(f)), None)
    if technique is None and name in registry.SINGLE:
        technique = registry.stage(name)
    if technique is None:
        known = [known for folder in registry.FOLDERS for known in registry.names(folder)]
        if not re.fullmatch("[0-9a-f]+", name) and not Path(name).exists():
            raise ToolchainError(f"{name!r} is no technique, engine, task or artifact", registry.suggest(name, known))
        artifact = store.resolve(name)
        if as_json:
            options.echo_json(artifact.manifest)
        else:
            options.print_rich(*describe(artifact))
        return 0
    from toolchain.cli.fields import describe as describe_settings
    from toolchain.cli.fields import written

    fields = list(describe_settings(technique.config))
    if as_json:
        options.echo_json({"name": name, "folder": technique.folder, "version": technique.version, "settings": fields})
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("setting", "type", "default", "meaning"):
        table.add_column(column)
    for field in fields:
        texts = (field["name"], field["type"], written(field["default"]), field["meaning"])
        table.add_row(*map(Text, texts))
    options.print_rich(
        Text(f"{name} ({technique.folder})", style="bold"), Text((technique.module.__doc__ or "").strip()), ""
    )
    options.print_rich(table if fields else "no settings")
    return 0


@click.command("verify")
@click.argument("references", nargs=-1)
@options.store_option
@options.json_option
@options.verbosity
def verify_command(references: tuple[str, ...], store: Store, as_json: bool) -> int:
    """Compare artifacts with the SHA-256 of their manifests, every byte.

    REFERENCES are keys or folders; without any, everything in the store.
    """
    damaged: list[str] = []
    chosen = [store.resolve(reference) for reference in references] or list(store.artifacts(damaged))
    problems = {str(artifact.path): artifact.problems() for artifact in chosen}
    if as_json:
        options.echo_json(problems | ({"unreadable": damaged} if damaged else {}))
    else:
        for line in [*damaged, *(line for found in problems.values() for line in found)]:
            click.echo(line, err=True)
        bad = len(damaged) + sum(bool(found) for found in problems.values())
        size = sum(artifact.size_bytes for artifact in chosen)
        count = len(chosen) + len(damaged)
        click.echo(f"{count} artifacts, {size / 1e6:,.1f} MB: {f'{bad} damaged' if bad else 'all as published'}")
    return 1 if damaged or any(problems.values()) else 0


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
            click.echo(f"{artifact.kind:10s} {artifact.key[:12]}  {artifact.manifest['label']}: {verb}")
    if as_json:
        options.echo_json(taken)
    return 0


@click.command("gc")
@click.argument("recipes", type=options.RECIPE, nargs=-1)
@options.recipe_options
@options.store_option
@click.option("--all", "everything", is_flag=True, help="Remove every artifact.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@options.json_option
@options.verbosity
def gc_command(
    recipes: tuple[Path, ...], sets: tuple[str, ...], models: tuple[str, ...], data: str | None, store: Store,
    everything: bool, dry_run: bool, as_json: bool,
) -> int:  # fmt: skip
    """Remove from the store what the named RECIPES do not need, and what interrupted runs left."""
    from toolchain.pipeline import plan, run
    from toolchain.pipeline import recipe as loader

    if bool(recipes) == everything:
        raise click.UsageError("name the recipes whose artifacts stay, or --all to remove everything")
    keep: set[str] = set()
    for path in recipes:
        outcome, _ = run.preview(plan.make(loader.load(path, sets, models, data)), store)
        keep |= {artifact.key for artifact in outcome.artifacts.values()}
    # Times of some of the engines that stay, by run --variant: minutes of measuring, and a few kilobytes.
    timings = (artifact for artifact in store.artifacts([]) if artifact.kind == "timing")
    keep |= {timing.key for timing in timings if set(timing.manifest["parents"]) <= keep}
    gone, freed = store.gc(keep, dry_run=dry_run)
    if as_json:
        options.echo_json({"removed": [artifact.key for artifact in gone], "bytes": freed, "kept": len(keep)})
        return 0
    for artifact in gone:
        click.echo(f"{artifact.kind:10s} {artifact.key[:12]}  {artifact.manifest.get('label', '')}")
    verb = "would remove" if dry_run else "removed"
    click.echo(f"{verb} {len(gone)} artifacts, {freed / 1e6:,.1f} MB; {len(keep)} kept")
    return 0


@click.command("doctor")
@options.store_option
@click.option(
    "--engine",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Say only whether this engine can run here: exit code 1 and the reason where it cannot.",
)
@click.option("--open", "opened", is_flag=True, help="With --engine: open it too, and let it answer a sentence.")
@options.json_option
@options.verbosity
def doctor_command(store: Store, engine: Path | None, opened: bool, as_json: bool) -> int:  # fmt: skip
    """Say what this machine can build and run, what is missing, and the command that adds it."""
    from toolchain.deliver import doctor

    if opened and engine is None:
        raise click.UsageError("--open opens the engine that --engine names")
    if engine is not None:
        return _examine(engine, opened, as_json)
    diagnosis = doctor.diagnose(store.root)
    if as_json:
        options.echo_json(diagnosis)
    else:
        options.print_rich(doctor.render(diagnosis))
    return 1 if diagnosis["problems"] else 0


def _examine(folder: Path, opened: bool, as_json: bool) -> int:
    """Says that an engine can run here; that it cannot is an error."""
    from toolchain.deliver import health

    found = health.examine(folder, opened=opened)
    if as_json:
        options.echo_json(found)
    else:
        named = f"{found['engine']} ({found['provider']})" if found["provider"] else found["engine"]
        answered = f", and answers {health.QUESTION!r} with {found['label']!r}" if opened else ""
        click.echo(f"{folder}: {named} can run here{answered}")
    return 0


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion_command(shell: str) -> int:
    """Print the completion script of a SHELL: eval "$(toolchain completion bash)"."""
    from click.shell_completion import get_completion_class

    from toolchain.cli import cli

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(found(cli, {}, "toolchain", "_TOOLCHAIN_COMPLETE").source())
    return 0


def describe(artifact: Artifact) -> Iterator[Any]:
    """What a person wants to know of an artifact, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    manifest = artifact.manifest
    yield Text(f"{artifact.kind} {artifact.key[:12]}  {manifest.get('label', '')}", style="bold")
    table = Table(box=None, show_header=False, pad_edge=False)
    parts = manifest["parts"]
    table.add_row("folder", str(artifact.path))
    table.add_row("made by", f"{parts['stage']} {parts['technique']} (version {parts['version']})")
    if parts.get("config"):
        table.add_row("settings", ", ".join(f"{key}: {value}" for key, value in parts["config"].items()))
    table.add_row("when", f"{manifest['started']}, {manifest['duration_s']} s, seed {manifest['seed']}")
    table.add_row("from", ", ".join(key[:12] for key in manifest["parents"]) or "outside")
    table.add_row("size", f"{artifact.size_bytes / 1e6:,.2f} MB in {len(manifest['files'])} files")
    for name, value in artifact.metrics.items():
        table.add_row(name, _short(value))
    for note in manifest.get("notes", ()):
        table.add_row("data", note)
    yield table


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(_short(item) for item in value)
    return str(value)


def _listed(what: str, store: Store) -> Iterator[dict[str, Any]]:
    if what == "techniques":
        for stage in ("finetune", "export"):
            yield {"stage": stage, "name": stage, "summary": registry.stage(stage).summary}
        for folder in registry.VARIANT_FOLDERS:
            for name in registry.names(folder):
                yield {"stage": folder, "name": name, "summary": registry.get(folder, name).summary}
    elif what in ("engines", "tasks"):
        for name in registry.names(what):
            yield {"name": name, "summary": registry.get(what, name).summary}
    elif what == "recipes":
        for path in sorted(Path("recipes").glob("*.yaml")):
            first = next(
                (line.lstrip("# ") for line in path.read_text("utf-8").splitlines() if line.startswith("#")), ""
            )
            yield {"name": str(path), "summary": first}
    else:
        damaged: list[str] = []
        for artifact in store.artifacts(damaged):
            yield {
                "kind": artifact.kind, "key": artifact.key[:12], "label": artifact.manifest.get("label", ""),
                "MB": f"{artifact.size_bytes / 1e6:.2f}", "started": artifact.manifest["started"],
            }  # fmt: skip
        for message in damaged:
            yield {"kind": "damaged", "key": "", "label": message, "MB": "", "started": ""}


def _show_recipe(path: Path, as_json: bool) -> int:
    from ruamel.yaml import YAML

    from toolchain.pipeline import recipe as loader
    from toolchain.pipeline.settings import plain

    found = loader.load(path)
    value = {
        "name": found.name, "task": {found.task.label: plain(found.task.config)}, "models": dict(found.models),
        "seeds": list(found.seeds),
        "variants": {
            (f"{model}/{variant}" if len(found.models) > 1 else variant): [{i.label: plain(i.config)} for i in items]
            for (model, variant), items in found.variants.items()
        },
        "engines": [{engine.label: plain(engine.config)} for engine in found.engines],
        "baseline": {"variant": found.baseline[0], "engine": found.baseline[1]},
        "evaluate": plain(found.evaluate), "benchmark": plain(found.benchmark), "report": plain(found.report),
        "check": plain(found.check),
    }  # fmt: skip
    if as_json:
        options.echo_json(value)
        return 0
    writer: Any = YAML()
    writer.default_flow_style = False
    writer.width = int(os.environ.get("COLUMNS", "100"))
    writer.dump(value, sys.stdout)
    return 0
