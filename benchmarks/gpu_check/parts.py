"""The parts of the GPU check that measure: answers, shapes, real lengths."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpu_check import rounds
from gpu_check.contestants import Batch, on_device, stays, with_copies
from gpu_check.models import PLANS, Prepared
from gpu_check.record import Record
from gpu_check.table import ORDERS
from toolchain.core.session import INPUTS
from toolchain.engines.shared.batching import Batching, plan_batches
from toolchain.model import tokens

#: What every ratio of a shape is against.
BASELINE = "ort fp32"

#: Rows whose time with copies is taken too.
COPIED = ("ort fp32", "ort fp16", "ort fp16 graph", "torch fp32", "torch fp16", *PLANS)

#: What is compared, round by round: what it is called, and whose time is divided by whose.
COMPARISONS = (
    ("fp16 against fp32", "ort fp32", "ort fp16"),
    ("TF32 against fp32", "ort fp32", "ort tf32"),
    ("lengths against padding mask, fp16", "ort fp16", "ort fp16 lengths"),
    ("our fusion against ONNX Runtime's own, fp16", "ort fp16 own", "ort fp16"),
    ("CUDA graph against none, fp16", "ort fp16", "ort fp16 graph"),
    ("CUDA graph against none, fp16 lengths", "ort fp16 lengths", "ort fp16 lengths graph"),
    ("CUDA graph against none, fp32", "ort fp32", "ort fp32 graph"),
    ("ort against torch eager, fp32", "torch fp32", "ort fp32"),
    ("ort against torch eager, fp16", "torch fp16", "ort fp16"),
    ("ort against torch.compile, fp16", "torch.compile fp16", "ort fp16"),
    ("ort with CUDA graph against torch.compile with CUDA graphs, fp16",
     "torch.compile fp16, CUDA graphs", "ort fp16 graph"),
    ("TensorRT against ort, fp32", "ort fp32", "trt fp32"),
    ("TensorRT against ort, fp16", "ort fp16", "trt fp16"),
    ("TensorRT int8 against its fp16", "trt fp16", "trt int8"),
    ("CUDA graph against none, TensorRT fp16", "trt fp16", "trt fp16 graph"),
)  # fmt: skip

#: A GPU is fed in larger batches than a processor: a call costs as much as some thousand tokens.
BATCHING = Batching(call=2048.0, attention=1024.0, token_budget=65536)

PADDED_TO = 128


def encode(prepared: Prepared, texts: Sequence[tuple[str, ...]]) -> list[Any]:
    """Texts as the model reads them."""
    return tokens.encode(prepared.checkpoint, texts)


def filled(prepared: Prepared, encoded: Sequence[Any], rows: int, length: int) -> Batch:
    """A batch without padding: the words of real texts, one after the other, until every row is full."""
    stream = itertools.cycle([token for item in encoded for token in item.ids[1:-1]])
    first, last = encoded[0].ids[0], encoded[0].ids[-1]
    ids = np.array([[first, *itertools.islice(stream, length - 2), last] for _ in range(rows)], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def shape(
    record: Record, prepared: Prepared, models: Mapping[str, Any], encoded: Sequence[Any], rows: int, length: int,
    effort: rounds.Effort, beside: Sequence[str] = (),
) -> None:  # fmt: skip
    """Times everything that is open at one shape.

    Args:
        record: Gets ``shapes`` and ``comparisons``.
        prepared: The model.
        models: Contestants, by name.
        encoded: Real texts.
        rows: Of the batch.
        length: Tokens of every row.
        effort: How long to time.
        beside: Those that go to the table of the shape, where others were there before; empty for all.
    """
    batch = filled(prepared, encoded, rows, length)
    calls: dict[str, Callable[[], Any]] = {}
    for name, model in models.items():
        if stays(model) and (not name.endswith("graph") or rows <= 8):
            calls[f"{name}|device"] = _lazily(on_device, model, batch)
        if name in COPIED and not (name.endswith("graph") and rows > 8):
            calls[f"{name}|host"] = with_copies(model, batch)
    samples, failed = rounds.timed(calls, effort)
    cell = f"{rows} × {length}"
    for name, error in failed.items():
        record.results["failed"][f"{prepared.name}, {cell}, {name}"] = record.clean(error)[:1000]
        record.say(f"FAILED: {prepared.name}, {cell}, {name}: {error}")
    found = {}
    for copies in ("device", "host"):
        mine = {name.split("|")[0]: taken for name, taken in samples.items() if name.endswith(copies)}
        found[copies] = rounds.summary(mine, rows, BASELINE)
        for what, slow, quick in COMPARISONS:
            if slow in mine and quick in mine and (not beside or {slow, quick} & set(beside)):
                place = "without copies" if copies == "device" else "with copies"
                _compare(record, prepared, cell, f"{what}, {place}", mine[slow], mine[quick])
    for name in COPIED:
        pair = [samples.get(f"{name}|{copies}") for copies in ("host", "device")]
        if pair[0] and pair[1] and not beside:
            _compare(record, prepared, cell, f"with copies against without, {name}", pair[0], pair[1])
    cells = record.results.setdefault("shapes", {}).setdefault(prepared.name, {}).setdefault(cell, {})
    for copies, times in found.items():
        more = {name: one for name, one in times.items() if not beside or name in beside}
        cells[copies] = {**cells.get(copies, {}), **more}
    told = ", ".join(f"{name} {one['median_ms']:.3f}" for name, one in found["device"].items())
    record.say(f"  {prepared.name}, {cell}, ms without copies: {told}")


def _lazily(make: Callable[[Any, Batch], Callable[[], Any]], model: Any, batch: Batch) -> Callable[[], Any]:
    """A call that is made at its first use, so that whatever fails then fails alone."""
    made: list[Callable[[], Any]] = []

    def call() -> Any:
        if not made:
            made.append(make(model, batch))
        return made[0]()

    return call


def _compare(
    record: Record, prepared: Prepared, cell: str, what: str, slow: list[list[float]], quick: list[list[float]]
) -> None:
    ratios = rounds.ratios_of(slow, quick)
    three = [round(value, 4) for value in (statistics.median(ratios), min(ratios), max(ratios))]
    found = record.results.setdefault("comparisons", [])
    found.append({"model": prepared.name, "shape": cell, "what": what, "ratio": three})


def lengths(
    record: Record, prepared: Prepared, models: Mapping[str, Any], encoded: Sequence[Any], size: int,
    effort: rounds.Effort,
) -> None:  # fmt: skip
    """Times a whole set of real texts, padded to 128, in data order, and sorted into batches; one pass is one call.

    Args:
        record: Gets ``real_lengths``.
        prepared: The model.
        models: Contestants, by name.
        encoded: The texts.
        size: The most texts of a batch.
        effort: How long to time; every round is one pass or a few.
    """
    encoded = [item for item in encoded if len(item.ids) <= PADDED_TO]
    counts = [len(item.ids) for item in encoded]
    plain = [list(range(start, min(start + size, len(encoded)))) for start in range(0, len(encoded), size)]
    sorted_ = plan_batches(counts, size, BATCHING)
    ways = {
        "pad to 128": [_padded(prepared, encoded, one, PADDED_TO) for one in plain],
        "data order": [_padded(prepared, encoded, one, 0) for one in plain],
        "sorted": [_padded(prepared, encoded, one, 0) for one in sorted_],
    }
    calls = {f"{name}|{way}": _passing(model, ways[way]) for name, model in models.items() for way in ORDERS}
    samples, failed = rounds.timed(calls, effort)
    for name, error in failed.items():
        record.results["failed"][f"{prepared.name}, real lengths, {name}"] = record.clean(error)[:1000]
        record.say(f"FAILED: {prepared.name}, real lengths, {name}: {error}")
    engines: dict[str, Any] = {}
    for name in models:
        mine = {way: samples[f"{name}|{way}"] for way in ORDERS if f"{name}|{way}" in samples}
        engines[name] = rounds.summary(mine, len(encoded), "pad to 128")
        if "sorted" in engines[name] and "ratio" in engines[name]["sorted"]:
            engines[name]["ratio"] = engines[name]["sorted"]["ratio"]
            record.say(f"  {prepared.name}, {name}: sorted against pad to 128: {engines[name]['ratio'][0]:.2f} ×")
    record.results.setdefault("real_lengths", {})[f"{prepared.name}, batches of {size}"] = {
        "texts": len(encoded), "mean_tokens": sum(counts) / len(counts), 
        "batches": {way: len(batches) for way, batches in ways.items()}, "engines": engines,
    }  # fmt: skip


def _passing(model: Any, batches: Sequence[Batch]) -> Callable[[], Any]:
    def call() -> None:
        for batch in batches:
            model.run(batch)

    return call


def _padded(prepared: Prepared, encoded: Sequence[Any], positions: Sequence[int], length: int) -> Batch:
    batch = tokens.padded(prepared.checkpoint, [encoded[index] for index in positions], INPUTS)
    missing = length - batch["input_ids"].shape[1]
    if missing <= 0:
        return batch
    return {name: np.pad(value, ((0, 0), (0, missing))) for name, value in batch.items()}


def answers(
    record: Record, prepared: Prepared, models: Mapping[str, Any], reference: Any, encoded: Sequence[Any]
) -> None:
    """Compares logits and labels on real text.

    Args:
        record: Gets ``answers``.
        prepared: The model.
        models: Contestants, by name.
        reference: PyTorch in fp32.
        encoded: Real texts.
    """
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
    batches = [
        tokens.padded(prepared.checkpoint, [encoded[index] for index in order[start : start + 64]], INPUTS)
        for start in range(0, len(order), 64)
    ]
    expected = np.concatenate([reference.run(batch)["logits"] for batch in batches])
    engines: dict[str, Any] = {}
    for name, model in models.items():
        try:
            found = np.concatenate([model.run(batch)["logits"] for batch in batches])
        except Exception as error:
            record.results["failed"][f"{prepared.name}, answers, {name}"] = record.clean(str(error))[:1000]
            record.say(f"FAILED: {prepared.name}, answers, {name}: {error}")
            continue
        same = float((found.argmax(1) == expected.argmax(1)).mean())
        engines[name] = {"max_difference": float(np.abs(found - expected).max()), "agreement": same}
        record.say(f"  {prepared.name}, {name}: max |Δlogit| {engines[name]['max_difference']:.3g}, labels {same:.2%}")
    told = record.results.setdefault("answers", {}).setdefault(prepared.name, {"engines": {}})
    told |= {"texts": len(encoded), "spread": float(expected.std(0).mean())}
    told["engines"] |= engines
