"""Where model and data come from, when the command line says so: ``--model`` and ``--data``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from toolchain.core import registry
from toolchain.core.errors import RecipeError
from toolchain.pipeline.document import Document


def point_models(document: Document, models: Iterable[str]) -> None:
    """Puts ``--model`` into the document."""
    for text in models:
        name, equals, source = text.partition("=")
        root = document.value
        written = root.get("models") or {"model": None}
        if not isinstance(written, Mapping):  # which is said when the recipe is validated
            return
        known = list(written)
        if not equals:
            if len(known) > 1:
                raise RecipeError(
                    f"--model {text}: the recipe has several models: {', '.join(known)}",
                    "name one: --model NAME=SOURCE",
                )
            name, source = known[0], text
        elif name not in known:
            raise RecipeError(f"--model {text}: no model is called {name!r}", registry.suggest(name, known))
        if not root.get("models"):
            if isinstance(root.get("model"), Mapping):
                root["model"]["source"] = source
            else:
                root["model"] = source
        elif isinstance(root["models"][name], Mapping):
            root["models"][name]["source"] = source
        else:
            root["models"][name] = source


def point_data(document: Document, data: str) -> None:
    """Puts ``--data`` into the document: the folder of a task that reads one, or files to train and judge on."""
    task = document.value.get("task", "reviews")
    if not task or not isinstance(task, str | Mapping):  # which is said when the recipe is validated
        return
    path = Path(data).expanduser()
    if not path.exists():
        raise RecipeError(f"--data {data}: no such file or folder")
    own = task if not isinstance(task, Mapping) or "files" in task else next(iter(task.values()), None)
    if isinstance(own, Mapping) and isinstance(own.get("files"), Mapping):
        if not path.is_dir():
            raise RecipeError(f"--data {data}: not a folder", "it takes the folder that holds the recipe's files")
        found = {split: path / Path(str(name)).name for split, name in own["files"].items()}
        missing = [str(file) for file in found.values() if not file.is_file()]
        if missing:
            raise RecipeError(f"--data {data}: missing {', '.join(missing)}")
        files = {split: str(file.absolute()) for split, file in found.items()}
        document.value["task"] = {**own, "files": files} if own is task else {next(iter(task)): {**own, "files": files}}
        return
    name = task if isinstance(task, str) else str(next(iter(task)))
    if name not in registry.names("tasks"):
        return
    fields = {field.name for field in dataclasses.fields(registry.get("tasks", name).config)}
    key = next((key for key in ("folder", "dataset") if key in fields), None)
    if key is None:
        raise RecipeError(f"--data {data}: the task {name} makes its own data", "choose another: --set task=sst2")
    settings = {} if isinstance(task, str) else dict(task[name] or {})
    document.value["task"] = {name: settings | {key: str(path.absolute())}}
