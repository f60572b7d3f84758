"""What the shell offers when Tab is pressed: recipes, techniques, engines, variants, settings; loads no framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import click

from toolchain.core import registry
from toolchain.core.errors import ToolchainError

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _offers(function: Callable[[click.Context], Iterable[str]]) -> Completer:
    """Turn a list of names into a completer: those that begin with what is typed; nothing where it cannot be told."""

    @wraps(function)
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        try:
            return sorted({name for name in function(ctx) if name.startswith(incomplete)})
        except ToolchainError:
            return []

    return complete


def recipes_here() -> list[Path]:
    """Return the recipes in the current folder and in its folder recipes/, apart from those of the package."""
    from toolchain.pipeline import shipped

    files = [*sorted(Path().glob("*.yaml")), *sorted(Path("recipes").glob("*.yaml"))]
    own = shipped.folder().resolve()
    return [path for path in files if path.resolve().parent != own and _has_variants(path)]


def recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Offer recipes by name, and files."""
    from click.shell_completion import CompletionItem

    from toolchain.pipeline import shipped

    names = [*map(str, recipes_here()), *(path.stem for path in shipped.recipes())]
    offered = sorted({name for name in names if name.startswith(incomplete)})
    return [CompletionItem(name) for name in offered] or [CompletionItem(incomplete, type="file")]


@_offers
def names(ctx: click.Context) -> Iterable[str]:
    """Offer what 'toolchain show' takes by name."""
    from toolchain.pipeline import shipped

    everything = (name for folder in registry.FOLDERS for name in registry.names(folder))
    return [*everything, *registry.single(), *(path.stem for path in shipped.recipes())]


@_offers
def technique(ctx: click.Context) -> Iterable[str]:
    """Offer the techniques of the command's own stage."""
    return registry.names(str(ctx.info_name))


@_offers
def engine(ctx: click.Context) -> Iterable[str]:
    """Offer engines."""
    return registry.names("engines")


@_offers
def task(ctx: click.Context) -> Iterable[str]:
    """Offer tasks."""
    return registry.names("tasks")


@_offers
def kind(ctx: click.Context) -> Iterable[str]:
    """Offer kinds of task."""
    return registry.names("kinds")


@_offers
def variant(ctx: click.Context) -> Iterable[str]:
    """Offer the variants of the recipe on the command line, and MODEL/VARIANT where it has several models."""
    root = _recipe(ctx)
    variants, models = root.get("variants"), root.get("models")
    written = list(map(str, variants)) if isinstance(variants, Mapping) else []
    several = list(models) if isinstance(models, Mapping) and len(models) > 1 else []
    return [*written, *(f"{model}/{name}" for model in several for name in written)]


@_offers
def setting(ctx: click.Context) -> Iterable[str]:
    """Offer keys for --set: of the recipe and of the techniques in it, or of the technique of a direct run."""
    named = ctx.params.get("technique")
    if named in registry.names(str(ctx.info_name)):
        return [f"{name}=" for name in _fields(registry.get(str(ctx.info_name), named).config)]
    return _keys(_recipe(ctx))


def _keys(root: Mapping[str, Any]) -> Iterator[str]:
    from toolchain.pipeline.document import KEYS, mentioned
    from toolchain.pipeline.items import single
    from toolchain.pipeline.settings import Benchmark, Evaluate, Report

    configs = {"evaluate": Evaluate, "benchmark": Benchmark, "report": Report}
    for key in KEYS:
        if key in configs:
            yield from (f"{key}.{name}=" for name in _fields(configs[key]))
        else:
            yield f"{key}="
    task_name = root.get("task", "reviews")
    names = {*mentioned(root), str(task_name) if isinstance(task_name, str) else str(next(iter(task_name or ()), ""))}
    for name in names:
        folder = next((folder for folder in registry.FOLDERS if name in registry.names(folder)), None)
        if folder or name in single():
            config = (registry.get(folder, name) if folder else registry.stage(name)).config
            yield from (f"{name}.{field}=" for field in _fields(config))


def _fields(config: type[Any], prefix: str = "") -> Iterator[str]:
    from toolchain.cli.fields import describe

    yield from (f"{prefix}{field['name']}" for field in describe(config))


def _recipe(ctx: click.Context) -> Mapping[str, Any]:
    """Return the recipe on the command line as written; empty where there is none."""
    from toolchain.pipeline import document
    from toolchain.pipeline.shipped import is_recipe

    values = [ctx.params.get(name) for name in ("recipe", "target", "targets", "recipes")]
    values.append(tuple(ctx.args))  # an option that still waits for its value keeps click from placing the arguments
    targets = [str(each) for value in values if value for each in (value if isinstance(value, tuple) else (value,))]
    named = next(filter(is_recipe, targets), None)
    return document.read(Path(named)).value if named else {}


def _has_variants(path: Path) -> bool:
    return any(line.startswith("variants:") for line in path.read_text("utf-8", errors="replace").splitlines())
