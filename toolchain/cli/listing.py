"""Commands that look a name up: list and show."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli import completing, options
from toolchain.core import foreign, registry
from toolchain.core.docstrings import docstring, reflowed
from toolchain.core.errors import ToolchainError

if TYPE_CHECKING:
    from toolchain.core.store import Artifact, Store

_WHAT = ("techniques", "engines", "tasks", "recipes", "artifacts")

#: Titles of columns; a row's other keys are for --json.
_TITLES = {"stage": "stage", "name": "name", "kind": "kind", "key": "key", "size": "MB", "started": "made",
           "label": "what", "summary": "what it does"}  # fmt: skip


@click.command("list")
@click.argument("what", type=click.Choice(_WHAT), required=False)
@options.store_option
@options.json_option
@options.verbosity
def list_command(what: str | None, store: Store, as_json: bool) -> int:
    """List techniques, engines, tasks, recipes, or the store's artifacts."""
    chosen = (what,) if what else _WHAT[:-1]
    damaged: list[str] = []
    lists = {name: list(_rows(name, store, damaged)) for name in chosen}
    if as_json:
        options.echo_json(lists | ({"damaged": damaged} if damaged else {}))
        return 1 if damaged else 0
    for name, rows in lists.items():
        _print(name, rows, store)
    for message in damaged:
        options.echo(f"damaged: {message}", err=True)
    return 1 if damaged else 0


@click.command("show")
@click.argument("name", shell_complete=completing.names)
@options.store_option
@options.json_option
@options.verbosity
def show_command(name: str, store: Store, as_json: bool) -> int:
    """Show a technique's settings, a task's, an engine's, a recipe as validated, or an artifact's manifest.

    NAME is a name from 'toolchain list', a recipe file, or an artifact's key or folder.
    """
    from toolchain.pipeline.shipped import is_recipe

    technique = next((registry.get(f, name) for f in registry.FOLDERS if name in registry.names(f)), None)
    if technique is None and name in registry.single():
        technique = registry.stage(name)
    if technique is not None:
        return _show_technique(name, technique, as_json)
    if is_recipe(name):
        return _show_recipe(Path(name), as_json)
    names = [known for folder in registry.FOLDERS for known in registry.names(folder)]
    if not re.fullmatch("[0-9a-f]+", name) and not Path(name).exists():
        raise ToolchainError(
            f"{name!r} is no technique, engine, task, recipe or artifact", registry.suggest(name, names)
        )
    artifact = store.resolve(name)
    store.check(artifact)
    if as_json:
        options.echo_json(artifact.manifest)
    else:
        options.print_rich(*describe(artifact))
    return 0


def describe(artifact: Artifact) -> Iterator[Any]:
    """Yield what a person wants to know of an artifact, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    manifest = artifact.manifest
    yield Text(f"{artifact.kind} {artifact.key[:12]}  {manifest.get('label', '')}", style="bold")
    table = Table(box=None, show_header=False, pad_edge=False)
    parts = manifest["parts"]
    table.add_row("folder", str(artifact.path))
    made_by = [str(parts.get(name, "")) for name in ("stage", "technique")]
    table.add_row("made by", f"{' '.join(filter(None, made_by))} (version {parts.get('version', '?')})")
    if parts.get("config"):
        table.add_row("settings", ", ".join(f"{key}: {value}" for key, value in parts["config"].items()))
    table.add_row("when", f"{manifest['started']}, {manifest['duration_s']} s, seed {manifest.get('seed')}")
    table.add_row("from", ", ".join(key[:12] for key in manifest["parents"]) or "outside")
    table.add_row("size", f"{artifact.size_bytes / 1e6:,.2f} MB in {len(manifest['files'])} files")
    for name, value in artifact.metrics.items():
        table.add_row(name, _short(value))
    for note in manifest.get("notes", ()):
        table.add_row("data", note)
    yield table


def _rows(what: str, store: Store, damaged: list[str]) -> Iterator[dict[str, Any]]:
    from toolchain.pipeline import shipped

    if what == "techniques":
        for name, stage in registry.stages().items():
            if stage.variant and stage.module and not stage.adopts:
                yield {"stage": name, "name": name, "summary": registry.stage(name).summary}
        for folder in registry.variant_folders():
            for name in registry.names(folder):
                yield {"stage": folder, "name": name, "summary": registry.get(folder, name).summary}
    elif what in ("engines", "tasks"):
        for name in registry.names(what):
            yield {"name": name, "summary": registry.get(what, name).summary}
    elif what == "recipes":
        for path in completing.recipes_here():
            yield {"name": str(path), "summary": shipped.summary(path)}
        for path in shipped.recipes():
            yield {"name": path.stem, "summary": shipped.summary(path)}
    else:
        for artifact in store.artifacts(damaged):
            yield {
                "kind": artifact.kind, "key": artifact.key[:12], "bytes": artifact.size_bytes,
                "started": artifact.manifest["started"], "label": artifact.manifest.get("label", ""),
            }  # fmt: skip


def _print(name: str, rows: Sequence[Mapping[str, Any]], store: Store) -> None:
    """Print one list under its heading, with titles, columns that line up, and totals."""
    from rich.table import Table
    from rich.text import Text

    if not rows:
        where = f" in {store.root}" if name == "artifacts" else ""
        options.print_rich(Text(f"{name}: none{where}", style="bold"), "")
        return
    total = f", {sum(row['bytes'] for row in rows) / 1e6:,.1f} MB in {store.root}" if name == "artifacts" else ""
    count = f"{len(rows)} {name if len(rows) > 1 else name.removesuffix('s')}"
    table = Table(box=None, header_style="dim", pad_edge=False)
    shown = [{**row, "size": f"{row['bytes'] / 1e6:,.2f}"} if "bytes" in row else dict(row) for row in rows]
    columns = [column for column in _TITLES if column in shown[0]]
    for column in columns:
        last = column == columns[-1]
        table.add_column(
            _TITLES[column], justify="right" if column == "size" else "left", no_wrap=not last,
            overflow="fold" if last else "ellipsis",
        )  # fmt: skip
    for row in shown:
        table.add_row(*(Text(str(row[column])) for column in columns))
    options.print_rich(Text(f"{count}{total}", style="bold"), table, "")


def _show_technique(name: str, technique: registry.Technique, as_json: bool) -> int:
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
        Text(f"{name} ({technique.folder})", style="bold"), Text(reflowed(docstring(technique.module))), ""
    )
    options.print_rich(table if fields else "no settings")
    return 0


def _show_recipe(path: Path, as_json: bool) -> int:
    from toolchain.pipeline import recipe as loader
    from toolchain.pipeline.settings import plain

    recipe = loader.load(path)
    value = {
        "name": recipe.name, "task": {recipe.task.label: plain(recipe.task.config)}, "models": dict(recipe.models),
        "seeds": list(recipe.seeds),
        "variants": {
            (f"{model}/{variant}" if len(recipe.models) > 1 else variant): [{i.label: plain(i.config)} for i in items]
            for (model, variant), items in recipe.variants.items()
        },
        "engines": [{engine.label: plain(engine.config)} for engine in recipe.engines],
        "baseline": {"variant": recipe.baseline[0], "engine": recipe.baseline[1]},
        "evaluate": plain(recipe.evaluate), "benchmark": plain(recipe.benchmark), "report": plain(recipe.report),
        "check": plain(recipe.check),
    }  # fmt: skip
    if as_json:
        options.echo_json(value)
        return 0
    text = _yaml(value, escaped=False)
    options.echo(text if foreign.shown(text) == text else _yaml(value, escaped=True), nl=False)
    return 0


def _yaml(value: Any, *, escaped: bool) -> str:
    """Return JSON values as YAML, every character beyond ASCII escaped if asked to."""
    from ruamel.yaml import YAML

    writer: Any = YAML()
    writer.default_flow_style = False
    writer.allow_unicode = not escaped
    writer.width = int(os.environ.get("COLUMNS", "100"))
    text = io.StringIO()
    writer.dump(value, text)
    return text.getvalue()


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(_short(item) for item in value)
    return str(value)
