"""Bad stores: each is a copy of a good one, spoiled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.cli.bad.case import Case, Prepare, both, files, nothing
from tests.tiny import Tiny, tiny

REPORT = ("report", "tiny.yaml", "--store", "store", "-q")
RUN = "toolchain run tiny.yaml"
TASK = ("--task", "{reviews: {train_size: 32, dev_size: 16, test_size: 24}}", "-q")


def _store(spoil: Callable[[Path, Tiny], object]) -> Prepare:
    def prepare(folder: Path) -> None:
        spoil(tiny().copy(folder), tiny())

    return prepare


def _of(store: Path, kind: str) -> Path:
    """The folder of one artifact of a kind in a copied store, always the same one."""
    found = next(a for a in tiny().store.artifacts() if a.kind == kind)
    return store / kind / found.key


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _flipped_evaluations(store: Path, _: Tiny) -> None:
    """Change every evaluation: which one of several comes first in the store depends on their keys."""
    for path in (store / "evaluation").glob("*/probabilities_test.npy"):
        _flip(path)


def _flipped_input(store: Path, _: Tiny) -> None:
    _flip(_of(store, "checkpoint") / "model.safetensors")
    for kind in ("onnx", "engine", "evaluation", "timing"):
        shutil.rmtree(store / kind)


def _written(name: str, text: str, kind: str = "checkpoint") -> Prepare:
    return _store(lambda store, _: (_of(store, kind) / name).write_text(text))


CASES = [
    Case(
        "the store is a file",
        ("run", "r.yaml", "--store", "a.txt", "-q"),
        files(
            a_txt="x",
            r_yaml="model: scratch:bert-1x32\nvariants: {base: [finetune, export]}\n",
        ),
        ("store a.txt", "--store FOLDER"),
    ),
    Case("a manifest cut short", REPORT, _written("manifest.json", '{"files": {'), ("manifest.json is damaged", RUN)),
    Case("a manifest of another kind", REPORT, _written("manifest.json", "[1, 2]"), ("manifest.json is damaged", RUN)),
    Case(
        "a file that is gone from an artifact",
        REPORT,
        _store(lambda store, _: (_of(store, "onnx") / "model.onnx").unlink()),
        ("model.onnx is missing", RUN),
    ),
    Case(
        "an artifact with a flipped byte as input",
        REPORT,
        _store(_flipped_input),
        ("model.safetensors", "changed", RUN),
    ),
    Case(
        "a measurement with a flipped byte",
        REPORT,
        _store(_flipped_evaluations),
        ("probabilities_test.npy", "changed", RUN),
    ),
    *(
        Case(
            f"{' '.join(command)} with a flipped byte",
            (*command, "--store", "store"),
            _store(lambda store, _: _flip(_of(store, "timing") / "timing.json")),
            ("timing.json", "changed", RUN),
        )
        for command in (("choose", "tiny.yaml", "--latency-ms", "50"), ("explain", "tiny.yaml"))
    ),
    Case(
        "verify finds a flipped byte",
        ("verify", "--store", "store"),
        _store(lambda store, _: _flip(_of(store, "engine") / "model.onnx")),
        ("model.onnx", "changed"),
    ),
    Case(
        "verify finds a file too many",
        ("verify", "--store", "store"),
        _written("extra.txt", "x", "engine"),
        ("extra.txt", "not in the manifest"),
    ),
    Case("a key that is not there", ("show", "0123abcd"), nothing, ("'0123abcd'", "toolchain list artifacts")),
    Case("a name that is nothing", ("show", "dynamic_int"), nothing, ("'dynamic_int'", "did you mean 'dynamic_int8'?")),
    Case("a folder that is no artifact", ("explain", "."), nothing, ("'.'", "toolchain list artifacts")),
    Case(
        "gc with a damaged manifest",
        ("gc", "tiny.yaml", "--store", "store", "--yes"),
        _written("manifest.json", "", "timing"),
        ("manifest.json is damaged", "rm -r"),
    ),
    Case(
        "-o below a file",
        ("export", "model", "-o", "a.txt/out", *TASK),
        both(files(a_txt="x"), lambda folder: shutil.copytree(tiny().artifact("checkpoint").path, folder / "model")),
        ("-o a.txt/out", "cannot be written"),
    ),
    Case(
        "a report to a file",
        ("run", "tiny.yaml", "--store", "store", "-o", "a.txt", "-q"),
        both(files(a_txt="x"), lambda folder: tiny().copy(folder)),
        ("-o a.txt", "cannot be written"),
    ),
    Case("a list of what there is not", ("list", "models"), nothing, ("'models'", "artifacts"), 2),
    Case("a shell without completion", ("completion", "tcsh"), nothing, ("'tcsh'", "fish"), 2),
]
