"""Does the work of one step, and writes what every artifact of its kind holds: interface, tokenizer, history."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from toolchain.augment.shared import examples_file
from toolchain.core.data import Dataset
from toolchain.core.errors import ModelError
from toolchain.core.files import copy_files, safe_folder
from toolchain.core.hooks import Engine, GraphPass
from toolchain.core.stage import Context, Teaching
from toolchain.core.store import Artifact, key_of
from toolchain.engines.shared.batching import BATCHING_KEY, Batching
from toolchain.measure import chance
from toolchain.model import graph
from toolchain.model import source as model_source
from toolchain.model.checkpoint import copy_tokenizer, read_json, refuse_quantized, write_json
from toolchain.model.labels import own_order
from toolchain.pipeline import gate
from toolchain.pipeline.items import gives
from toolchain.pipeline.plan import Plan, Step
from toolchain.pipeline.settings import plain

#: Where a tokenizer's or a model's config says which folder it was loaded from.
_PLACES = ("_name_or_path", "name_or_path", "tokenizer_file")


def perform(step: Step, inputs: list[Artifact], out: Path, context: Context, plan: Plan) -> dict[str, Any]:
    """Does the work of one step, and writes what every artifact of its kind holds.

    Args:
        step: The step.
        inputs: Its inputs.
        out: Empty folder to write.
        context: What the technique is handed.
        plan: The plan, for model paths and engine names.

    Returns:
        The technique's metrics.
    """
    module, config = step.technique.module, step.config
    more = [artifact for artifact in inputs if artifact.kind == "data"]
    inputs = [artifact for artifact in inputs if artifact.kind != "data"]
    if more:
        context = _with_more(context, [artifact.path for artifact in more])
    if step.stage == "adopt":
        metrics: dict[str, Any] = module.apply(config, out, context)
        own = {} if step.kind == "checkpoint" else read_origin(out)  # a graph or an engine knows its checkpoint
        began = own or _origin(str(config.path), module.identity(config)["files"])
        _write_history(out, read_history(out), began)
        return metrics
    if step.stage == "finetune":
        resolved = model_source.resolve(step.source or "", plan.recipe.base)
        source = resolved.spec if resolved.kind == "scratch" else model_source.fetch(resolved)
        metrics = module.apply(source, out, config, context)
        before = read_history(source) if isinstance(source, Path) else []  # an encoder that was pruned before
        began = _origin(resolved.spec, resolved.identity.get("files", {}))
        _write_history(out, [*before, *_augmented(more), _entry(step)], began)
        return metrics
    if step.stage == "augment":
        folder = _modelled(step, plan) if step.source else inputs.pop(0).path
        labeller = inputs[0].path if inputs else None
        metrics = module.apply(folder, out, config, dataclasses.replace(context, labeller=labeller))
        _write_history(out, [_entry(step)], {})
        return metrics
    if step.stage == "time":
        engines = {artifact.key: artifact.path for artifact in inputs}
        return dict(module.time_engines(engines, out, config, context))
    parent = inputs[0]
    if step.stage == "sensitivity":
        origin = {"checkpoint": parent.key, "task": {plan.recipe.task.label: plain(plan.recipe.task.config)}}
        return dict(module.measure(parent.path, out, config, context, origin))
    if step.stage == "evaluate":
        return dict(module.evaluate(parent.path, out, config, context, gate.reference(inputs)))
    if step.stage == "build":
        metrics = step.technique.of(Engine).build(parent.path, out, config, context)
        accompany(parent.path, out)
        known = {name: parent.metrics[name] for name in ("parameters", "flops") if name in parent.metrics}
        defaults = {BATCHING_KEY: Batching().record()}
        write_json(out / "engine.json", defaults | read_json(out / "engine.json") | known)
        return known | metrics
    if step.stage == "teach":
        metrics = dict[str, Any](module.apply(parent.path, out, config, context))
        data = context.dataset()
        doubt = chance.note(round(metrics["dev_accuracy"] * len(data.dev)), len(data.dev), data.labels)
        return metrics | {"notes": [f"{parent.manifest['label']}, a teacher: {doubt}"] if doubt else []}
    if step.stage == "compress":
        refuse_quantized(parent.path)
        context = dataclasses.replace(_in_own_order(context, parent.path), teachers=_teachings(inputs[1:]))
    if step.stage == "optimize":
        dialect = str(read_json(parent.path / "interface.json")["dialect"])
        takes = step.technique.of(GraphPass).TAKES
        if dialect not in takes:
            raise ModelError(
                f"{step.technique.name} takes dialect {' or '.join(takes)}, and the graph is quantized or fused "
                f"already: it is of dialect {dialect}",
                "quantize the graph that export gives, once, in training or after it",
            )
        _check_precision(step, parent.path)
    metrics = module.apply(parent.path, out, config, context)
    if step.stage == "optimize":
        copy_tokenizer(parent.path, out)
        written = out / "interface.json"  # by a pass that changes what the graph reads
        interface = read_json(written if written.is_file() else parent.path / "interface.json")
        item = next(i for items in plan.recipe.variants.values() for i in items if i.technique is step.technique)
        given = gives(type(item)(item.stage, item.technique, config, item.label), str(interface["dialect"]))
        write_json(out / "interface.json", interface | {"dialect": given})
        metrics = {name: parent.metrics[name] for name in ("flops", "mean_tokens") if name in parent.metrics} | metrics
    known = parent.manifest["parents"]  # what it has learned from is in its history
    fresh = _augmented(artifact for artifact in more if artifact.key not in known)
    _write_history(out, [*read_history(parent.path), *fresh, _entry(step)], read_origin(parent.path))
    return metrics


def _check_precision(step: Step, folder: Path) -> None:
    """Refuse a pass that needs single precision, where the graph's own weights are in half precision.

    Raises:
        ModelError: The pass does not take the graph.
    """
    narrow = graph.narrowed(graph.load(folder / "model.onnx", weights=False))
    if narrow and step.technique.hooks.requires([narrow]):
        raise ModelError(
            f"{step.technique.name} takes a graph in fp32, and this one has weights in {narrow}",
            "start from the graph in fp32",
        )


def _teachings(inputs: Sequence[Artifact]) -> tuple[Teaching, ...]:
    """Teachers, each with the answers that follow it, if any do."""
    found: list[Teaching] = []
    for each in inputs:
        if each.kind == "answers":
            found[-1] = dataclasses.replace(found[-1], answers=each.path)
        else:
            found.append(Teaching(each.path))
    return tuple(found)


def accompany(source: Path, out: Path) -> None:
    """Gives an engine what it is read with: tokenizer, interface and history of the graph that it was built from.

    An engine is deployed, so that what its files tell of folders on this machine stays here.

    Args:
        source: The graph's folder.
        out: The engine folder.
    """
    copy_files(source, ("tokenizer.json", "interface.json"), out)
    safe_folder(source, ("*.json",))  # a graph that an engine is refitted with comes from anywhere
    for name in ("config.json", "tokenizer_config.json"):  # what Optimum and transformers open a folder by
        if (source / name).is_file() and not (out / name).exists():
            record = read_json(source / name)
            if local := {key for key in _PLACES if key in record}:
                write_json(out / name, {key: value for key, value in record.items() if key not in local})
            else:
                shutil.copyfile(source / name, out / name)
    _write_history(out, without_folders(read_history(source)), read_origin(source))


def _modelled(step: Step, plan: Plan) -> Path | None:
    """The folder of the model that an augmentation stands before the fine-tuning of; None of one from scratch."""
    resolved = model_source.resolve(step.source or "", plan.recipe.base)
    return None if resolved.kind == "scratch" else model_source.fetch(resolved)


def _with_more(context: Context, folders: list[Path]) -> Context:
    """A context whose data has the training examples of augmentations as well."""
    given = context.dataset

    @cache
    def data() -> Dataset:
        return examples_file.joined(given(), folders)

    return dataclasses.replace(context, dataset=data)


def _in_own_order(context: Context, folder: Path) -> Context:
    """A context whose data counts labels as the checkpoint does."""
    given = context.dataset

    @cache
    def data() -> Dataset:
        return own_order(folder, given())

    return dataclasses.replace(context, dataset=data)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Techniques applied, in order, with their settings; empty when none is recorded."""
    path = folder / "history.json"
    return list(read_json(path).get("techniques", [])) if path.is_file() else []


def read_origin(folder: Path) -> dict[str, str]:
    """Return the model that an artifact began as: ``source`` and ``digest``; empty where that is not recorded."""
    path = folder / "history.json"
    return dict(read_json(path).get("origin", {})) if path.is_file() else {}


def without_folders(value: Any) -> Any:
    """Return JSON values in which a path of this machine is the name at its end."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~/")):
        return Path(value).name
    return value


def _origin(spec: str, files: Mapping[str, str]) -> dict[str, str]:
    """Return what is kept of the model that a chain begins with: its name, without the folder, and its digest."""
    local = Path(spec).expanduser()
    return {"source": local.resolve().name if local.exists() else spec} | ({"digest": key_of(files)} if files else {})


def _augmented(more: Iterable[Artifact]) -> list[dict[str, Any]]:
    """How examples were made."""
    return [entry for artifact in more for entry in read_history(artifact.path)]


def _write_history(folder: Path, entries: list[dict[str, Any]], origin: Mapping[str, str]) -> None:
    write_json(folder / "history.json", {"techniques": entries} | ({"origin": dict(origin)} if origin else {}))


def _entry(step: Step) -> dict[str, Any]:
    found = {
        "stage": step.stage, "technique": step.technique.name, "version": step.technique.version,
        "config": plain(step.config),
    }  # fmt: skip
    return found | ({"seed": step.seed} if step.seed is not None else {})
