"""The command line: one command per stage; refit, allocate, run, validate, list, show, explain, doctor and others."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType

import click

from toolchain import __version__
from toolchain.cli import ending
from toolchain.core import guardian, host
from toolchain.core.docstrings import docstring

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
    """Entry point: whatever is raised becomes one message and an exit code; with ``--json`` as JSON on stdout too.

    Exit codes: 0 done, 1 an error that the message explains, 2 usage, 3 finished but a bound was missed or nothing
    sound is left, 130 stopped.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        _prepare()
        if argv is None:  # called as a program, and not by one
            guardian.start()
            signal.signal(signal.SIGINT, _stop)
        signal.signal(signal.SIGTERM, _stop)
        ending.check_words(words)
        result = cli.main(args=list(words), prog_name="toolchain", standalone_mode=False)
        ending.flush()
    except BaseException as error:  # native libraries raise what is no Exception
        code = ending.answer(error, "--json" in words)
        if argv is None and code == ending.INTERRUPTED:
            ending.leave_at_once(code)
        sys.exit(code)
    sys.exit(result if isinstance(result, int) else 0)


def _prepare() -> None:
    """Make the outputs usable, and set what libraries read when they are imported; what the user set stays."""
    ending.prepare_streams()
    host.provide_user()
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",  # forking workers after its threads have started would warn, and may hang
        "RUST_BACKTRACE": "0",  # a panic becomes one sentence
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }.items():
        os.environ.setdefault(name, value)


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop, once: what is left to do then is not interrupted again."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
