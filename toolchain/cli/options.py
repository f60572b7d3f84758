"""Options that commands share, and what they have in common."""

from __future__ import annotations

import functools
import json
import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from toolchain.cli import completing
from toolchain.core import disk, foreign, log

if TYPE_CHECKING:
    from toolchain.core.store import Store
    from toolchain.pipeline.direct import Asked

F = TypeVar("F", bound=Callable[..., Any])

#: Options on which no result depends.
_CHANGES_NOTHING = frozenset(
    {"as_json", "dry_run", "force", "output", "quiet", "store", "verbose"}
    | {"size_mb", "latency_ms", "per_s", "at", "drop", "accuracy", "patterns", "confident"}  # what is asked of a result
)

#: Columns of what is printed to a file or another program.
PIPED_WIDTH = 80


class _Recipe(click.Path):
    """The file of a recipe, or the name of one that comes with the package."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; fail on a folder, and say what writes a recipe for what is in it."""
        if Path(value).is_dir():
            self.fail(
                f"'{value}' is a folder; a recipe is a file, which 'toolchain init {value} DATA' writes", param, ctx
            )
        return super().convert(value, param, ctx)


RECIPE = _Recipe(exists=False, dir_okay=False, path_type=Path)


def verbosity(function: F) -> F:
    """Adds ``-v`` and ``-q``, and sets the log up."""

    @click.option("-v", "--verbose", is_flag=True, help="Say more: hits, keys, details.")
    @click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings, errors and results.")
    @functools.wraps(function)
    def wrapper(*args: Any, verbose: bool, quiet: bool, **kwargs: Any) -> Any:
        log.setup(1 if verbose else -1 if quiet else 0)
        return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def store_option(function: F) -> F:
    """Adds ``--store``: the store is held until the command ends, so that no ``gc`` removes what it uses."""
    return _store_option(_held_store)(function)


def hold(store: Store) -> None:
    """Hold a store, made where there is none, until the command ends: a result is copied after the run."""
    click.get_current_context().with_resource(store.used(make=True))


def free_store_option(function: F) -> F:
    """Adds ``--store`` of a command that takes the store for itself alone."""
    return _store_option(lambda ctx, param, value: _store(value))(function)


def _store_option(callback: Callable[[click.Context, click.Parameter, str], Store]) -> Callable[[F], F]:
    return click.option(
        "--store", "store", envvar="TOOLCHAIN_STORE", default="artifacts", show_default=True, show_envvar=True,
        callback=callback, help="Folder of the artifacts.",
    )  # fmt: skip


def json_option(function: F) -> F:
    """Adds ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def recipe_options(function: F) -> F:
    """Adds what changes a recipe from the command line: ``--set``, ``--model``, ``--data``."""
    for option in (
        click.option("--data", metavar="PATH", help="Take the task's data from this local folder."),
        click.option("--model", "models", multiple=True, metavar="[NAME=]SOURCE", help="Take this model instead."),
        click.option(
            "--set", "sets", multiple=True, metavar="KEY=VALUE", shell_complete=completing.setting,
            help="Change a setting, e.g. finetune.epochs=1 or benchmark.threads=2.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def variant_option(function: F) -> F:
    """Adds ``--variant``."""
    return click.option(
        "--variant", "variants", multiple=True, metavar="NAME", shell_complete=completing.variant,
        help="Only this variant of a recipe, or MODEL/NAME, and the baseline; may be given several times.",
    )(function)  # fmt: skip


def limit_options(function: F) -> F:
    """Adds what an engine must keep within to be shipped."""
    positive = click.FloatRange(0, min_open=True)
    for option in (
        click.option(
            "--accuracy", type=click.FloatRange(0, 100), metavar="FLOOR", help="The least accuracy, in percent."
        ),
        click.option(
            "--drop", type=click.FloatRange(0, 100), metavar="POINTS", help="The most points below the baseline."
        ),
        click.option("--at", metavar="BATCH", help="Where --per-s is taken, e.g. 'batch 32'. [default: the largest]"),
        click.option("--per-s", type=positive, metavar="X", help="The fewest texts a second."),
        click.option("--latency-ms", type=positive, metavar="X", help="The most ms of one text."),
        click.option("--size-mb", type=positive, metavar="X", help="The most MB to download."),
    ):
        function = option(function)
    return function


def given_limits(
    size_mb: float | None, latency_ms: float | None, per_s: float | None, at: str | None, drop: float | None,
    accuracy: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the limits that are given, as a recipe has them."""
    named = {
        "size_mb": size_mb, "latency_ms": latency_ms, "per_s": per_s,
        "at": f"batch {at}" if at and at.isdigit() else at, "drop": drop, "accuracy": accuracy,
    }  # fmt: skip
    return {name: value for name, value in named.items() if value is not None}


def check_options(function: F) -> F:
    """Adds ``--check`` and ``--junit``."""
    for option in (
        click.option(
            "--junit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
            help="With --check: write the checks as JUnit XML here too.",
        ),
        click.option(
            "--check", is_flag=True,
            help="Hold the engines to the bounds under the recipe's key check; exit code 3 when one is broken.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def run_options(function: F) -> F:
    """Adds what a command that does work takes."""
    for option in (
        click.option(
            "--threads", type=click.IntRange(0),
            help="Threads to tune and time engines with; 0: every core, which training always takes.",
        ),
        click.option(
            "--force", is_flag=False, flag_value="*", default=None, metavar="[STAGE]",
            help="Do it again although the store has it: everything, or one stage.",
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    ):  # fmt: skip
        function = option(function)
    return function


def with_threads(sets: Sequence[str], threads: int | None) -> list[str]:
    """The settings of the command line, ``--threads`` among them."""
    return [*sets, *([] if threads is None else [f"benchmark.threads={threads}"])]


def asked(settings: Mapping[str, Any]) -> Asked:
    """Return what a command of stages is given beside its target."""
    from toolchain.pipeline.direct import Asked

    return Asked(
        task=settings["task"], tokenizer=settings["tokenizer"], models=settings["models"], data=settings["data"],
        sets=with_threads(settings["sets"], settings["threads"]), variants=settings.get("variants", ()),
    )  # fmt: skip


@contextmanager
def usage_errors() -> Iterator[None]:
    """Say what does not go together as click does: with the command's usage.

    Raises:
        click.UsageError: What is given does not go together.
    """
    from toolchain.pipeline.direct import UsageError

    try:
        yield
    except UsageError as error:
        raise click.UsageError(error.message) from error


def forced(value: str | None) -> Sequence[str]:
    """The stages that ``--force`` names.

    Raises:
        click.BadParameter: It names no stage.
    """
    from toolchain.pipeline.direct import UsageError
    from toolchain.pipeline.direct import forced as stages_of

    try:
        return stages_of(() if value is None else value)
    except UsageError as error:
        raise click.BadParameter(f"{error.message}: {error.hint}", param_hint="--force") from error


def again(store: bool = False) -> str:
    """The command line that makes what the current command tells of: what changes no result is left out.

    Args:
        store: Whether the store that was named belongs to it.
    """
    context = click.get_current_context()
    name = context.info_name or ""
    words = ["toolchain", "run" if name in ("report", "explain", "choose") else name]
    left_out = _CHANGES_NOTHING - {"store"} if store else _CHANGES_NOTHING
    for parameter in context.command.params:
        if parameter.name in left_out or parameter.name is None:
            continue
        if context.get_parameter_source(parameter.name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = context.params[parameter.name]
        option = [] if isinstance(parameter, click.Argument) else [max(parameter.opts, key=len)]
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words += option
            continue
        for each in value if isinstance(value, tuple) else (value,):
            words += [*option, str(each.root if parameter.name == "store" else each)]
    return shlex.join(words)


def echo_json(value: Any) -> None:
    """Prints a value as JSON on stdout."""
    click.echo(foreign.json_text(json.dumps(value, indent=2, ensure_ascii=False, default=str)))


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text, which may quote what strangers wrote; to stderr if asked to, and without a newline."""
    click.echo(foreign.shown(text), err=err, nl=nl)


def print_rich(*renderables: Any) -> None:
    """Print to stdout: in colour on a terminal, else as wide as ``COLUMNS`` says, 80 where it is not set."""
    from toolchain.core.terminal import Terminal

    console = Terminal()
    if not console.is_terminal:
        console = Terminal(width=int(os.environ.get("COLUMNS", PIPED_WIDTH)))
    for renderable in renderables:
        console.print(renderable, crop=False)  # a command is never broken or cut: it can be copied


def verbose() -> bool:
    """Return whether ``-v`` was given."""
    return log.logger.isEnabledFor(logging.DEBUG)


def store_named(store: Store) -> str:
    """Return the store's folder as an option of the next command: empty where it is the default, or set for all."""
    context = click.get_current_context()
    named = context.get_parameter_source("store") is click.core.ParameterSource.COMMANDLINE
    return str(store.root) if named else ""


def _held_store(ctx: click.Context, param: click.Parameter, value: str) -> Store:
    store = _store(value)
    if not ctx.resilient_parsing:  # completion only looks
        ctx.with_resource(store.used())
    return store


def _store(value: str) -> Store:
    from toolchain.core.store import Store

    disk.check_text(value, "--store")
    return Store(disk.expand(value))
