"""The command that writes a first recipe: init."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli import completing, options
from toolchain.core import delivery
from toolchain.core.data import CLASSIFICATION
from toolchain.core.errors import RecipeError, ToolchainError

if TYPE_CHECKING:
    from toolchain.pipeline.at_hand import Data, Model
    from toolchain.pipeline.starter import Starter


@click.command("init")
@click.argument("targets", nargs=-1, metavar="[PATH]...")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("recipe.yaml"), show_default=True,
    help="The recipe to write.",
)  # fmt: skip
@click.option("--text", multiple=True, metavar="COLUMN", help="The column of the text; give it twice for pairs.")
@click.option("--label", metavar="COLUMN", help="The column of the class, of several labels or of the score.")
@click.option(
    "--kind", shell_complete=completing.kind,
    help="What is learned, such as multi_label; by default what the model was trained for, or the column looks like.",
)  # fmt: skip
@click.option(
    "--task",
    shell_complete=completing.task,
    help="A task that brings its own data, such as sst2, in place of data files.",
)
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Folder of the tokenizer, when it is not beside the ONNX file.",
)  # fmt: skip
@options.limit_options
@click.option("--force", is_flag=True, help="Overwrite the recipe.")
@options.json_option
@options.verbosity
def init_command(
    targets: tuple[str, ...], output: Path, text: tuple[str, ...], label: str | None, kind: str | None,
    task: str | None, tokenizer: Path | None, size_mb: float | None, latency_ms: float | None, per_s: float | None,
    at: str | None, drop: float | None, accuracy: float | None, force: bool, as_json: bool,
) -> int:  # fmt: skip
    """Write a recipe for the model and the data at hand.

    PATHs are a checkpoint folder, an ONNX file or folder, or a hub id, and the task's CSV, TSV, JSONL or Parquet files,
    or folders that hold them; by default the current folder. Columns, labels and installed runtimes are found out. A
    fine-tuned checkpoint is taken as it is; a plain encoder is fine-tuned first. Limits stand in the recipe: what
    'toolchain run' says to ship keeps within them.
    """
    from toolchain.core.registry import names, suggest
    from toolchain.pipeline import at_hand, starter

    if task is not None and task not in names("tasks"):
        raise click.BadParameter(f"no task is called {task!r}: {suggest(task, names('tasks'))}", param_hint="--task")
    if kind is not None and kind not in names("kinds"):
        raise click.BadParameter(f"no kind is called {kind!r}: {suggest(kind, names('kinds'))}", param_hint="--kind")
    if kind is not None and task is not None:
        raise click.UsageError(f"--task {task} has its own kind: leave out --kind")
    model, files = at_hand.look(targets)
    if task is not None and files:
        raise click.UsageError(f"--task {task} brings its own data: leave out {', '.join(map(str, files))}")
    if task is None and not files:
        where = ", ".join(targets) or "this folder"
        raise ToolchainError(
            f"no data in {where}; data are a CSV, TSV, JSONL or Parquet file with a column of text and one of "
            "classes, labels or scores",
            f"for example: toolchain init {shlex.join(targets) or 'path/to/checkpoint'} train.csv",
        )
    data = at_hand.read_data(files, model, text, label, kind or "") if files else None
    model = model or at_hand.packaged()
    if model is None:
        where = ", ".join(targets) or "this folder"
        raise ToolchainError(
            f"no model in {where}; a model is a folder with config.json, an .onnx file or a hub id",
            f"for example: toolchain init path/to/checkpoint {shlex.join(map(str, files))}",
        )
    if output.exists() and not force:
        raise RecipeError(f"{output} exists", "write another file with -o, or overwrite it with --force")
    limits = options.given_limits(size_mb, latency_ms, per_s, at, drop, accuracy)
    recipe = starter.compose(model, data, task, output, tokenizer, limits)
    _write(recipe.text, output)
    if as_json:
        options.echo_json(_as_json(recipe, model, data, task, output, limits))
    else:
        options.echo("\n".join(_summary(recipe, model, data, task, output, limits)))
    return 0


def _write(text: str, output: Path) -> None:
    """Write the recipe, after it has proved to be valid.

    Raises:
        RecipeError: It is not valid.
    """
    from toolchain.pipeline import document, inputs, plan
    from toolchain.pipeline import recipe as recipes

    draft = output.with_name(f".{output.name}.draft.yaml")
    with delivery.writing(output), delivery.writing(draft):
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, "utf-8")
    try:
        written = document.read(draft)
        recipe = recipes.parse(written)
        plan.make(recipe)
        inputs.check(written, recipe)
    except RecipeError as error:
        raise RecipeError(error.message.replace(str(draft), str(output)), error.hint) from error
    finally:
        draft.unlink()
    with delivery.writing(output):
        output.write_text(text, "utf-8")


def _as_json(
    recipe: Starter, model: Model, data: Data | None, task: str | None, output: Path, limits: Mapping[str, Any]
) -> dict[str, object]:
    return {
        "recipe": str(output),
        "model": {"source": model.spec, "kind": model.kind, "labels": list(model.labels)},
        "task": task or "files",
        "files": {part: str(path) for part, path in data.files.items()} if data else {},
        "text": list(data.columns.text) if data else [],
        "label": data.columns.label if data else None,
        "kind": data.columns.kind if data else None,
        "variants": list(recipe.variants),
        "engines": list(recipe.engines),
        "notes": list(recipe.notes),
        "limits": dict(limits),
        "next": _next(output, limits),
    }


def _summary(
    recipe: Starter, model: Model, data: Data | None, task: str | None, output: Path, limits: Mapping[str, Any]
) -> list[str]:
    kinds = {
        "classifier": "a fine-tuned checkpoint, taken as it is",
        "encoder": "an encoder, fine-tuned first",
        "onnx": "an ONNX graph, taken as it is",
    }
    labels = f"; classes: {', '.join(model.labels)}" if model.labels else ""
    if data is None:
        read = f"the task {task}"
    else:
        alone = len(data.files) == 1
        files = ", ".join(f"{path}" if alone else f"{part} {path}" for part, path in data.files.items())
        columns = (
            f"text: {', '.join(data.columns.text)}; label: {data.columns.label}" if data.sheet.header else "no header"
        )
        columns += "" if data.columns.kind == CLASSIFICATION else f"; kind: {data.columns.kind}"
        read = f"{files}{f', {data.sheet.rows:,} rows' if alone else ''} ({columns})"
    return [
        f"wrote {output}",
        f"  model     {model.spec} ({kinds[model.kind]}{labels})",
        f"  data      {read}",
        *([f"  held out  {_held_out(model, data)}"] if data and {"dev", "test"} - data.files.keys() else []),
        f"  variants  {', '.join(recipe.variants)}",
        f"  engines   {', '.join(recipe.engines)}",
        *(f"  check     {note}" for note in recipe.notes),
        *([f"  limits    {', '.join(f'{name}: {value}' for name, value in limits.items())}"] if limits else []),
        "next:" if limits else "next (with your own limits):",
        *(f"  {command}" for command in _next(output, limits)),
    ]


def _held_out(model: Model, data: Data) -> str:
    """Return which share of the training file is kept for which part."""
    from toolchain.pipeline.starter import HOLDOUT

    purposes = {"dev": "to choose settings on (dev)", "test": "to judge engines on (test)"}
    share = f"{HOLDOUT[model.kind]:.0%}".replace("%", " %")
    return ", ".join(f"{share} {purpose}" for part, purpose in purposes.items() if part not in data.files)


def _next(output: Path, limits: Mapping[str, Any]) -> list[str]:
    name = shlex.quote(str(output))
    choose = [] if limits else [f"toolchain choose {name} --size-mb 50 --latency-ms 20 --drop 1"]
    return [f"toolchain run {name}", *choose]
