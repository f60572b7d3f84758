"""Write a recipe for the model, the data and the runtimes that are at hand."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolchain import kinds
from toolchain.core import registry
from toolchain.core.data import CLASSIFICATION
from toolchain.core.errors import DataError, MissingPackageError, ModelError
from toolchain.core.hooks import Engine
from toolchain.core.processors import physical_cores
from toolchain.model import adopt, graph
from toolchain.pipeline import keys
from toolchain.pipeline.at_hand import Data, Model
from toolchain.tasks.shared.examples import label_text

#: The share of one file that dev and test get each: a model that is still to be trained leaves most rows to learn from,
#: a trained one needs only texts to calibrate on.
HOLDOUT = {"encoder": 0.1, "classifier": 0.4, "onnx": 0.4}

#: Tokens that a word becomes, about.
TOKENS_PER_WORD = 1.4


@dataclass(frozen=True)
class Starter:
    """A recipe and what it is made of.

    Attributes:
        text: The YAML.
        variants: Names of its variants.
        engines: Names of its engines.
        notes: What the user should check, one sentence each.
    """

    text: str
    variants: tuple[str, ...]
    engines: tuple[str, ...]
    notes: tuple[str, ...]


def compose(
    model: Model, data: Data | None, task: str | None, output: Path, tokenizer: Path | None = None,
    limits: Mapping[str, float | str] | None = None,
) -> Starter:  # fmt: skip
    """Write the recipe.

    Args:
        model: What it starts from.
        data: Labelled text, or None where a task is named.
        task: The name of a task that brings its own data.
        output: The recipe's file; paths in it are relative to its folder.
        tokenizer: Folder with the tokenizer of an ONNX model that has none beside it.
        limits: What an engine must keep within to be shipped, as a recipe has it.

    Raises:
        ModelError: The model lacks something.
        DataError: The data have other classes than the model.
        MissingPackageError: No runtime is installed.
    """
    if data and "finetune" in kinds.get(data.columns.kind).REFUSED:  # what is encoder and model in one
        model = replace(model, kind="classifier")
    base = output.absolute().parent
    engines, commented = _engines()
    labels, mapping, notes = _labels(model, data) if data else ((), {}, [])
    variants, options, reason = _variants(model)
    if not model.sure:
        notes.append(f"{model.spec} is not downloaded yet: it is taken as an encoder that is still to be fine-tuned")
    lines = [
        "# Written by 'toolchain init' for what was at hand; edit it freely. 'toolchain show NAME' lists the settings",
        "# of a technique or an engine, and 'toolchain validate' checks this file.",
        f"name: {_name(model, data)}",
        *(_task(model, data, labels, base) if data else [f"task: {task}"]),
        *_start(model, data, mapping, base, tokenizer),
        "variants:",
        *([f"  # {reason}"] if reason else []),
        *(f"  {name}: {items}" for name, items in variants.items()),
        *(f"  # {name}: {items}  # {why}" for name, (items, why) in options.items()),
        f"engines: [{', '.join(engines)}]",
        *(f"# {line}" for line in commented),
        "# What an engine must keep within to be shipped; 'toolchain choose' takes other limits without a new run.",
        f"limits: {_flow(limits)}" if limits else "# limits: {size_mb: 50, latency_ms: 20, drop: 1}",
        "# Sizes and times are compared with this one.",
        f"baseline: {{variant: {next(iter(variants))}, engine: {engines[0]}}}",
        f"# threads: 0 is every core, here {physical_cores()}. Name the batch sizes and threads that you serve with.",
        "benchmark: {batch_sizes: [1, 32], threads: 0}",
    ]
    return Starter("\n".join(lines) + "\n", tuple(variants), tuple(engines), tuple(notes))


def _flow(limits: Mapping[str, float | str]) -> str:
    """Return limits as a person writes them in a recipe: ``{size_mb: 50, drop: 1}``."""
    shown = (f"{name}: {json.dumps(v) if isinstance(v, str) else format(v, '.15g')}" for name, v in limits.items())
    return f"{{{', '.join(shown)}}}"


def _engines() -> tuple[list[str], list[str]]:
    """Return the engines that run here, and comments on those that could be added."""
    engines, comments = [], []
    for name in registry.names("engines"):
        technique = registry.get("engines", name)
        engine, config = technique.of(Engine), technique.config()
        if "standard" not in engine.ACCEPTS:  # it runs checkpoints, to be compared with
            continue
        absent = engine.absent(config)
        if "missing" in map(keys.installed, technique.libraries):
            if engine.EXTRA and not absent:
                comments.append(f"{name} is another engine: pip install 'toolchain[{engine.EXTRA}]'")
        elif not absent:
            engines.append(name)
        elif not engine.unbuilt(config):
            comments.append(f"{name} can be built here, not run ({absent}): add it for another machine")
    if not engines:
        raise MissingPackageError("no runtime is installed", "pip install 'toolchain[cpu]'")
    return engines, comments


def _variants(model: Model) -> tuple[dict[str, str], dict[str, tuple[str, str]], str]:
    """Return the variants, those that stand in comments with the reason, and why there are no more."""
    export = [] if model.kind == "onnx" else ["export"]

    def items(*passes: str) -> str:
        return f"[{', '.join([*export, *passes])}]"

    variants = {"base": items()}
    if model.kind == "onnx" and (dialect := _dialect(model.spec)) != "standard":
        return variants, {}, f"the graph is quantized or fused already (dialect {dialect}): it is measured as it is"
    variants["static-int8"] = items("static_int8")
    if importlib.util.find_spec("nncf"):
        variants["nncf-int8"] = items("nncf_static")
    options = {
        "static-int8-asymmetric": (items("{static_int8: {symmetric: false}}"), "with zero points; not for TensorRT"),
        "dynamic-int8": (items("dynamic_int8"), "its answers may depend on the rest of a batch"),
    }
    if importlib.util.find_spec("neural_compressor"):
        options["inc-int8"] = (items("inc_smoothquant"), "Intel Neural Compressor")
    return variants, options, ""


def _dialect(spec: str) -> str:
    if not importlib.util.find_spec("onnx"):
        return "standard"
    return graph.dialect(graph.load(adopt.graph_file(Path(spec).expanduser())))


def _start(
    model: Model, data: Data | None, mapping: Mapping[str, str], base: Path, tokenizer: Path | None
) -> list[str]:
    """Return where the variants start: a checkpoint that is fine-tuned here, or a model that is taken as it is."""
    spec = _written(model.spec, base)
    if model.kind == "encoder":
        comment = "# An encoder without a classifier: it is fine-tuned first. A fine-tuned checkpoint is taken by"
        return [
            f"model: {spec}", comment, f"# stages: [{{adopt: {{path: {spec}}}}}], without the key model.",
            "stages:", f"  - finetune: {{epochs: 3, learning_rate: 5e-5, max_length: {_max_length(model, data)}}}",
        ]  # fmt: skip
    beside = ""
    if model.kind == "onnx":
        local = Path(model.spec).expanduser()
        tokenizer = tokenizer or _tokenizer_inside(local if local.is_dir() else local.parent)
        places = [tokenizer] if tokenizer else [local, local.parent, local.parent.parent]
        if not any((place / "tokenizer.json").is_file() for place in places):
            raise ModelError(
                f"no tokenizer.json in {tokenizer or (local if local.is_dir() else local.parent)}",
                "name the folder that holds it: --tokenizer FOLDER",
            )
        beside = f", tokenizer: {_written(str(tokenizer), base)}" if tokenizer else ""
    pairs = ", ".join(f"{_scalar(own)}: {_scalar(name)}" for own, name in mapping.items())
    names = f", labels: {{{pairs}}}" if mapping else ""
    what = "An ONNX graph" if model.kind == "onnx" else "A fine-tuned checkpoint"
    return [
        f"# {what}: it is taken as it is, and not trained. Judge it on rows that it was not trained on.",
        "stages:", f"  - adopt: {{path: {spec}{beside}{names}}}",
    ]  # fmt: skip


def _tokenizer_inside(folder: Path) -> Path | None:
    """Return the one folder in an ONNX model's folder that holds a tokenizer, where the model's own holds none."""
    inside = sorted(path.parent for path in folder.glob("*/tokenizer.json"))
    return inside[0] if len(inside) == 1 and not (folder / "tokenizer.json").is_file() else None


def _task(model: Model, data: Data, labels: Sequence[str], base: Path) -> list[str]:
    files = ", ".join(f"{part}: {_written(str(path), base)}" for part, path in data.files.items())
    absent = [part for part in ("dev", "test") if part not in data.files]
    lines = [
        f"# {data.sheet.path.name}: {data.sheet.rows:,} rows{_classes_shown(data)}."
        + (f" {' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} held out of it." if absent else ""),
        "task:",
        f"  files: {{{files}}}",
    ]
    if data.sheet.header:
        text = data.columns.text
        lines.append(f"  text: {_scalar(text[0]) if len(text) == 1 else f'[{_scalar(text[0])}, {_scalar(text[1])}]'}")
        lines.append(f"  label: {_scalar(data.columns.label)}")
    lines += [] if data.columns.kind == CLASSIFICATION else [f"  kind: {data.columns.kind}"]
    lines += [f"  {name}: {json.dumps(value)}" for name, value in data.sheet.settings.items()]
    if labels:
        lines.append(f"  labels: [{', '.join(map(_scalar, labels))}]  # in the order of the model's answers")
    if absent:
        share = (
            "the share of the rows for dev, and again for test" if len(absent) == 2 else f"the share for {absent[0]}"
        )
        lines.append(f"  holdout: {HOLDOUT[model.kind]}  # {share}")
    return lines


def _classes_shown(data: Data) -> str:
    """Return how many classes the data have, and which, for a comment; '' where they have none."""
    if kinds.get(data.columns.kind).NAMES:
        return ""
    classes = data.sheet.classes(data.columns.label, data.columns.kind)
    return f", {len(classes)} classes ({', '.join(classes[:8])}{', …' if len(classes) > 8 else ''})"


def _labels(model: Model, data: Data) -> tuple[tuple[str, ...], dict[str, str], list[str]]:
    """Match the classes of the data with those of the model.

    Returns:
        The names that the task must give its classes, if any; the data's names of the model's classes, where they
        differ; and what the user should check.

    Raises:
        DataError: The data have other classes than the model.
    """
    if kinds.get(data.columns.kind).NAMES:
        return (), {}, []
    classes = data.sheet.classes(data.columns.label, data.columns.kind)
    if model.kind == "onnx" and not model.labels:
        note = f"no file names the graph's classes; check that they are, in this order: {', '.join(classes)}"
        return classes, {}, [note]
    if not model.labels or set(classes) == set(model.labels):
        return (), {}, []
    if model.unnamed and len(classes) == len(model.labels):
        note = f"the model does not name its classes; check that they are, in this order: {', '.join(classes)}"
        return (), dict(zip(model.labels, classes, strict=True)), [note]
    if not model.unnamed and set(classes) <= {str(index) for index in range(len(model.labels))}:
        return model.labels, {}, []
    if set(classes) <= set(model.labels):
        return model.labels, {}, []
    by_case = {name.casefold(): name for name in classes}
    if len(by_case) == len(classes) and set(by_case) == {name.casefold() for name in model.labels}:
        return (), {name: by_case[name.casefold()] for name in model.labels}, []
    known = {name.casefold(): name for name in model.labels}
    strange = [name for name in classes if name.casefold() not in known]
    if 0 < len(strange) < len(classes) and not model.unnamed:
        raise _strange_labels(model, data, strange, known)
    raise DataError(
        f"{data.sheet.path}: {data.columns.label!r} holds {', '.join(classes[:8])}; "
        f"{model.spec} was trained for {', '.join(model.labels)}",
        "name the data that it was trained for, or another class column: --label COLUMN",
    )


def _strange_labels(model: Model, data: Data, strange: Sequence[str], known: Mapping[str, str]) -> DataError:
    """Return the error for a few labels of the data that the model does not have, with their rows."""
    parts = kinds.get(data.columns.kind).cell_labels
    values = [[label_text(part) for part in parts(value)] for value in data.sheet.columns[data.columns.label]]
    counts = [(name, [row for row, own in enumerate(values, start=1) if name in own]) for name in strange[:8]]
    shown = ", ".join(
        f"{name!r} (row {rows[0]:,})" if len(rows) == 1 else f"{name!r} ({len(rows):,} rows, the first is {rows[0]:,})"
        for name, rows in counts
    )
    close = difflib.get_close_matches(strange[0].casefold(), known, n=1)
    meant = f"did you mean {known[close[0]]!r}? " if close else ""
    return DataError(
        f"{data.sheet.path}: {data.columns.label!r} holds {shown}, of {len(values):,} rows; "
        f"the classes of {model.spec} are {', '.join(model.labels)}",
        f"{meant}Correct these rows or remove them, or name another class column: --label COLUMN",
    )


def _max_length(model: Model, data: Data | None) -> int:
    """Return how many tokens fine-tuning should read: nearly all of nearly every text, as far as the model can."""
    wanted = 128
    if data is not None:
        columns = [data.sheet.columns[name] for name in data.columns.text]
        words = sorted(sum(len(str(part).split()) for part in parts) for parts in zip(*columns, strict=True))
        tokens = words[int(len(words) * 0.95)] * TOKENS_PER_WORD
        wanted = next((length for length in (128, 256, 512) if tokens <= length), 512)
    return min(wanted, model.longest or 512)


def _name(model: Model, data: Data | None) -> str:
    """Return a name for the recipe: the trained model's, or the data's."""
    if data and model.kind == "encoder":
        stem = re.sub(r"[-_.]?(training|train)$", "", data.files["train"].stem)
        return _scalar(stem or data.files["train"].absolute().parent.name or "data")
    path = Path(model.spec).expanduser()
    name = path.stem if path.suffix == ".onnx" and path.stem != "model" else path.absolute().name
    return _scalar(re.sub(r"^\W+", "", name.removesuffix(".onnx")) or "model")


def _written(spec: str, base: Path) -> str:
    """Return a model's source or a path as the recipe names it: relative to the recipe's folder where it is local."""
    path = Path(spec).expanduser()
    return _scalar(Path(os.path.relpath(path.absolute(), base)).as_posix() if path.exists() else spec)


def _scalar(text: str) -> str:
    """Return a text as a YAML scalar, quoted where YAML would read something else."""
    plain = re.fullmatch(r"[A-Za-z_.][\w./-]*( [\w./-]+)*", text) and text.lower() not in {
        "true", "false", "null", "yes", "no", "on", "off", ".nan", ".inf",
    }  # fmt: skip
    return text if plain else json.dumps(text, ensure_ascii=False)
