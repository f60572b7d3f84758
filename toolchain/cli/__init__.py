"""The command line: one command per stage; refit, allocate, run, validate, list, show, explain, doctor and others."""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import sys
from types import FrameType
from typing import Any

import click

from toolchain import __version__
from toolchain.core import host
from toolchain.core.docstrings import docstring
from toolchain.core.errors import ToolchainError

#: Command → module that defines it as ``command`` or under its own name; nothing is imported before it is needed.
COMMANDS = {
    "init": "init", "run": "recipes", "validate": "recipes", "explain": "recipes", "report": "recipes",
    "choose": "choose",
    "finetune": "stages", "augment": "stages", "compress": "stages", "export": "stages", "optimize": "stages",
    "build": "stages", "refit": "plans", "benchmark": "stages", "sensitivity": "layers", "allocate": "layers",
    "list": "listing", "show": "listing", "verify": "inspect", "gc": "inspect", "doctor": "inspect",
    "completion": "inspect", "import": "inspect",
}  # fmt: skip

_ORDER = {
    "Recipes": ("init", "run", "validate", "choose", "explain", "report"),
    "Stages": ("finetune", "augment", "compress", "export", "optimize", "build", "refit", "benchmark"),
    "Layers": ("sensitivity", "allocate"),
    "Look": ("list", "show", "doctor", "verify", "import", "gc", "completion"),
}


class _Lazy(click.Group):
    """Imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"toolchain.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        if not command.help and command.callback:  # python -OO
            command.help = docstring(command.callback)
        return command

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if not self.help and self.callback:
            self.help = docstring(self.callback)
        super().format_help_text(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from toolchain.core.registry import suggest

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no such command {args[0]!r}: {suggest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in _ORDER.items():
            rows = [
                (name, (self.get_command(ctx, name) or click.Command(name)).get_short_help_str(90)) for name in names
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, "--version", prog_name="toolchain")
def cli() -> None:
    """From a transformer encoder to the engine you should ship.

    Fine-tunes, compresses, exports, quantizes, builds and measures real engines, and ranks them. Start with

        toolchain run recipes/quickstart.yaml
    """


def main(argv: list[str] | None = None) -> None:
    """Entry point: errors become one message and an exit code; with ``--json`` they stand as JSON on stdout too.

    Exit codes: 0 done, 1 an error that the message explains, 2 usage, 3 finished but a bound was missed or nothing
    sound is left, 130 stopped.
    """
    as_json = "--json" in (sys.argv[1:] if argv is None else argv)
    _prepare_environment()
    signal.signal(signal.SIGTERM, _stop)
    try:
        result = cli.main(args=argv, prog_name="toolchain", standalone_mode=False)
    except click.exceptions.Abort:
        _fail("stopped: what is finished stays, the same command goes on from here", 130)
    except KeyboardInterrupt:
        _fail("stopped: what is finished stays, the same command goes on from here", 130)
    except click.ClickException as error:
        error.show()
        _echo_json(as_json, error.format_message(), "", error.exit_code)
        sys.exit(error.exit_code)
    except ToolchainError as error:
        _echo_json(as_json, error.message, error.hint, error.exit_code)
        _fail(f"error: {error}", error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(result if isinstance(result, int) else 0)


def _prepare_environment() -> None:
    """Set what libraries read when they are imported, and make every character printable; what the user set stays."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in latin-1 or ASCII a "±" would end a run that has done its work
            stream.reconfigure(errors="replace")
    host.provide_user()
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",  # forking workers after its threads have started would warn, and may hang
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }.items():
        os.environ.setdefault(name, value)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _echo_json(wanted: bool, message: str, hint: str, code: int) -> None:
    """Print an error as JSON where a program asked for JSON."""
    if wanted:
        click.echo(json.dumps({"error": {"message": message, "hint": hint, "exit_code": code}}, ensure_ascii=False))


def _fail(message: str, code: int) -> Any:
    click.echo(message, err=True)
    sys.exit(code)
