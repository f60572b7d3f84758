"""Cases of arguments: every command with values of every kind at every option."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import click

from fuzz_readers import changes

#: Commands that would work for seconds: they only say what they would do.
_LOOKING = {
    "run", "finetune", "augment", "compress", "export", "optimize", "build", "benchmark", "sensitivity", "allocate",
}  # fmt: skip
_VALUES = (
    "r.yaml", "model", "graph", "engine", "store", "report", "base", "onnxruntime", "dynamic_int8", "magnitude_prune",
    "reviews", "nowhere", "./x.sh", "a.csv", "1", "0", "-1", "1.5", "train=x", "finetune", "batch 1", "d.jsonl",
)  # fmt: skip


def draw(rng: random.Random, good: Path) -> list[str]:
    """Fill the current folder and return a command of random arguments."""
    from toolchain.cli import COMMANDS, cli

    for name in ("r.yaml", "model", "graph", "engine", "report"):
        if rng.random() < 0.5:
            (shutil.copytree if (good / name).is_dir() else shutil.copy)(good / name, name)
    if rng.random() < 0.3:
        shutil.copytree(good / "store", "store")
    name = rng.choice(list(COMMANDS))
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    argv = [name]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            count = rng.choice((1, 1, 1, 2, 0)) if parameter.nargs == -1 else 1 if rng.random() < 0.97 else 0
            argv += [_value(rng) for _ in range(count)]
        elif parameter.name not in ("help", "output", "dry_run") and rng.random() < 0.15:
            option = max(parameter.opts, key=len)
            argv += [option] if getattr(parameter, "is_flag", False) else [option, _value(rng, parameter.type)]
    options = {each for parameter in command.params for each in parameter.opts}
    argv += ["--dry-run"] if name in _LOOKING and "--dry-run" in options else []
    if name in _LOOKING and "--dry-run" not in options:
        return ["list", _value(rng)]
    argv += ["-o", rng.choice(("out", "r.yaml", "a" * 300, "out/deep/er", "model"))] if "--output" in options else []
    return argv


def _value(rng: random.Random, kind: click.ParamType[Any] | None = None) -> str:
    if isinstance(kind, click.Choice) and rng.random() < 0.7:
        return str(rng.choice(list(kind.choices)))
    if rng.random() < 0.55:
        return rng.choice(_VALUES)
    text = str(rng.choice(changes.TEXTS + changes.NUMBERS)).replace("\0", "")
    text = text.replace("OUTSIDE", "nowhere").replace("..", "nowhere").replace("/dev/zero", "zero")
    return os.fsdecode(text.replace("/proc", "proc").encode("utf-8", "surrogatepass"))
