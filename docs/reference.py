"""Writes the reference pages from the code: ``python docs/reference.py``; with ``--check`` it only compares.

The pages are committed, so that they can be read where they lie; a test holds that they equal what the code says.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from toolchain.cli import COMMANDS, cli
from toolchain.cli.fields import describe, written
from toolchain.core import registry
from toolchain.core.stage import Stage
from toolchain.pipeline.bounds import Rule
from toolchain.pipeline.settings import Benchmark, Evaluate, Report, Weights

FOLDER = Path(__file__).parent / "reference"
_HOOKS: Callable[[], Iterator[str]] = runpy.run_path(str(Path(__file__).with_name("hooks.py")))["page"]
_HOUSE: Callable[[], Iterator[str]] = runpy.run_path(str(Path(__file__).with_name("house.py")))["page"]
_NOTE = "<!-- Written by docs/reference.py from the code; change the code, then run: make reference -->\n"


def main(arguments: list[str]) -> int:
    """Writes the pages, or says which ones differ from the code.

    Args:
        arguments: Empty, or ``--check``.

    Returns:
        0, or 1 when a page differs and ``--check`` was given.
    """
    differ = []
    for name, text in pages().items():
        path = FOLDER / name
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        differ.append(name)
        if "--check" not in arguments:
            path.write_text(text, "utf-8")
            sys.stdout.write(f"written: {path}\n")
    if differ and "--check" in arguments:
        sys.stderr.write(f"docs/reference: {', '.join(differ)} differ from the code; run: make reference\n")
        return 1
    return 0


def pages() -> dict[str, str]:
    """File name → text of every generated page."""
    made: dict[str, Callable[[], Iterator[str]]] = {
        "techniques.md": _techniques, "engines.md": _engines, "tasks.md": _tasks, "settings.md": _settings,
        "cli.md": _commands, "house.md": _HOUSE, "hooks.md": _HOOKS,
    }  # fmt: skip
    return {name: _NOTE + "\n" + "\n\n".join(make()) + "\n" for name, make in made.items()}


def _techniques() -> Iterator[str]:
    yield "# Techniques"
    yield (
        "What may stand in `stages` and in a variant. They run in one direction: "
        f"{' → '.join(stage.name for stage in _stages())}; augmentations may stand before `finetune` "
        "too. `toolchain show NAME` prints the same."
    )
    for stage in (stage for stage in _stages() if stage.module):
        yield from _entry(registry.stage(stage.name), "stage")
    for folder in registry.variant_folders():
        for name in registry.names(folder):
            yield from _entry(registry.get(folder, name), folder)


def _stages() -> list[Stage]:
    """Return the stages of a variant that a recipe names; taking in a model stands there by itself."""
    return [stage for stage in registry.stages().values() if stage.variant and not stage.adopts]


def _engines() -> Iterator[str]:
    yield "# Engines"
    yield (
        "What may stand under `engines`. An engine takes graphs of the dialects that it accepts; other pairs are "
        "marked as not applicable before any work. `as: NAME` beside the settings gives an engine a name of its own, "
        "so that a recipe can have one runtime twice."
    )
    for name in registry.names("engines"):
        yield from _entry(registry.get("engines", name), "engines")


def _tasks() -> Iterator[str]:
    yield "# Task settings"
    yield "What may stand under `task`; [Tasks](../tasks.md) shows them in use."
    for name in registry.names("tasks"):
        yield from _entry(registry.get("tasks", name), "tasks")


def _settings() -> Iterator[str]:
    yield "# Evaluation, benchmark, report, check and sensitivity settings"
    configs = {"evaluate": Evaluate, "benchmark": Benchmark, "report": Report, "report.weights": Weights}
    configs |= {"check": Rule}
    configs |= {"sensitivity": registry.stage("sensitivity").config}
    for key, config in configs.items():
        yield f"## {key}"
        yield _first_line(config)
        yield _table(config)


def _entry(technique: registry.Technique, folder: str) -> Iterator[str]:
    module = technique.module
    yield f"## {technique.name}"
    yield _prose(module.__doc__ or "")
    if folder == "augment":
        yield "More training examples, for what stands after it."
    if folder == "compress":
        yield "Checkpoint to checkpoint."
    if folder == "optimize":
        yield f"Takes a graph of dialect {_listed(module.TAKES)}, gives {_listed(_gives(module))}."
    if folder == "engines":
        yield f"Accepts {_listed(module.ACCEPTS)}."
    yield _table(technique.config)


def _gives(module: Any) -> tuple[str, ...]:
    """The dialects that a pass may write; those that depend on its settings are read from their documentation."""
    if hasattr(module, "GIVES"):
        return (str(module.GIVES),)
    return tuple(re.findall(r"``(standard|qdq|ort)``", module.gives.__doc__ or ""))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(config: type[Any]) -> str:
    fields = list(describe(config))
    if not fields:
        return "No settings."
    rows = [("setting", "type", "default", "meaning"), ("---",) * 4]
    for field in fields:
        default = "required" if field["default"] == "required" else f"`{written(field['default'])}`"
        rows.append((f"`{field['name']}`", field["type"], default, _prose(field["meaning"])))
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def _prose(text: str) -> str:
    """A docstring as Markdown: code is marked by one backtick, not two."""
    return re.sub(r"``(.+?)``", r"`\1`", text.strip())


def _first_line(config: type[Any]) -> str:
    return (config.__doc__ or "").strip().splitlines()[0]


def _commands() -> Iterator[str]:
    yield "# Commands"
    yield (
        "Data goes to stdout, messages and progress to stderr. Exit codes: 0 done, 1 an error that its message "
        "explains, 2 usage, 3 finished but a bound was missed or no engine may be shipped, 130 stopped with Ctrl-C."
    )
    # With the settings of the command line: click keeps the first help option that it makes for a command.
    root = click.Context(cli, info_name="toolchain", **cli.context_settings)
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None, name
        with click.Context(command, info_name=name, parent=root) as context:
            usage = " ".join(["toolchain", name, *command.collect_usage_pieces(context)])
            yield f"## {name}"
            yield f"```text\n{usage}\n```"
            yield _help(command.help or "")
            rows = [_option(option) for option in command.params if isinstance(option, click.Option)]
            if rows:
                yield "\n".join(["| option | meaning |", "| --- | --- |", *rows])


def _help(text: str) -> str:
    """A command's help, its arguments' names marked."""
    paragraphs = [" ".join(part.split()) for part in text.strip().split("\n\n")]
    return "\n\n".join(re.sub(r"\b([A-Z]{4,})\b", r"`\1`", part) for part in paragraphs)


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len))
    takes = "" if option.is_flag else f" `{option.metavar or _kind(option.type)}`"
    said = [option.help or ""]
    if option.show_default and isinstance(option.default, str):
        said.append(f"Default: `{option.default}`.")
    if option.show_envvar and option.envvar:
        said.append(f"Environment variable: `{option.envvar}`.")
    return f"| {names}{takes} | {' '.join(said)} |"


def _kind(kind: Any) -> str:
    if isinstance(kind, click.IntRange):
        return "NUMBER"
    return {"path": "PATH", "integer": "NUMBER"}.get(kind.name, "TEXT")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
