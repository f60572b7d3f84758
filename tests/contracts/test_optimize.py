"""What every graph pass of the registry keeps to: each runs twice on one tiny graph, and tests read what is left."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builders import LABELS, SENTENCES, context
from tests.optimize.variants import exported
from tests.shared import once
from toolchain.core import registry
from toolchain.core.artifact import digest
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import MissingPackageError, RecipeError
from toolchain.core.hooks import GraphPass
from toolchain.core.stage import DIALECTS
from toolchain.measure import parity
from toolchain.model import graph
from toolchain.pipeline import document, recipe

#: Settings that make a pass quick, for those that have them.
QUICK = {
    "calibration_samples": 16, "samples": 16, "dev_samples": 32, "ranking_samples": 16, "trials": 2, "rounds": 3
}  # fmt: skip

#: The item of a variant that gives each dialect.
GIVERS = {
    "qdq": "static_int8", "qdq-asymmetric": "{static_int8: {symmetric: false}}", "ort": "dynamic_int8",
    "qdq-fp8": "static_fp8",
}  # fmt: skip

#: Texts that are drawn, and of them those that are kept: the ones that the graph is surest of.
DRAWN, KEPT = 96, 48

each_pass = pytest.mark.parametrize("name", registry.names("optimize"))


def source() -> Path:
    """The tiny BERT with a classifier that gives half of ``texts()`` each label; never to be written to."""
    return once("balanced-graph", _balance)


def _balance(folder: Path) -> None:
    for name in ("tokenizer.json", "interface.json"):
        shutil.copyfile(exported("bert") / name, folder / name)
    margins = np.diff(parity.Graph(exported("bert"), 1).logits(_drawn()))[:, 0]
    model = graph.load(exported("bert") / "model.onnx")
    classifier = model.graph.node[-1]
    assert (classifier.op_type, len(classifier.input)) == ("Gemm", 2)  # a bias of zeros is not exported
    bias = np.array([np.median(margins), 0], np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "classifier.bias"))
    classifier.input.append("classifier.bias")
    onnx.save(model, folder / "model.onnx")


def _drawn() -> list[tuple[str]]:
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    draw = random.Random(17)
    return [(" ".join(draw.choices(words, k=draw.randint(1, 24))),) for _ in range(DRAWN)]


@functools.cache
def texts() -> Dataset:
    """The texts that the graph is surest of, labelled as it labels them: whatever gives another label, changed it."""
    logits = parity.Graph(source(), 1).logits(_drawn())
    surest = np.argsort(-np.abs(np.diff(logits)[:, 0]))[:KEPT]
    split = Split([_drawn()[index] for index in surest], logits[surest].argmax(axis=1).tolist())
    return Dataset(split, split, split, LABELS)


def settings(name: str) -> Any:
    config = registry.get("optimize", name).config
    return config(**{field.name: QUICK[field.name] for field in fields(config) if field.name in QUICK})


#: Files that were opened for writing since the list was made; None where nobody asks.
_opened: list[str] | None = None


@functools.cache
def _watch() -> None:
    """Write down from now on which files this process opens for writing; Python never takes such a hook away."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _opened is not None and isinstance(arguments[0], str | bytes):
            mode, flags = arguments[1:3]
            if set(mode) & set("wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                _opened.append(os.fsdecode(arguments[0]))

    sys.addaudithook(hook)


@contextlib.contextmanager
def places(folder: Path) -> Iterator[None]:
    """Give a pass and its children a current folder, a home and a place for temporary files, each of their own."""
    before, kept, current = tempfile.tempdir, dict(os.environ), Path.cwd()
    for name in ("current", "home", "temporary"):
        (folder / name).mkdir(parents=True)
    os.environ |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary")}
    tempfile.tempdir = None
    os.chdir(folder / "current")
    try:
        yield
    finally:
        os.chdir(current)
        tempfile.tempdir = before
        os.environ.clear()
        os.environ |= kept


def run(name: str, folder: Path) -> None:
    """Run a pass twice, watched, and leave ``one``, ``other`` and ``facts.json``."""
    global _opened
    apply, config, given = registry.get("optimize", name).of(GraphPass).apply, settings(name), source()
    before = {path.name: digest(path) for path in given.iterdir()}
    facts: dict[str, Any] = {}
    # What chooses by measured times may choose otherwise the next time.
    for turn in ("one",) if registry.get("optimize", name).hooks.tunes(config) else ("one", "other"):
        out, work, around = folder / turn, folder / f"{turn}-work", folder / f"{turn}-around"
        out.mkdir()
        work.mkdir()
        _watch()
        with places(around):
            opened: list[str] = []
            _opened = opened
            try:
                apply(given, out, config, context(work, texts()))
            except MissingPackageError as error:
                facts["missing"] = str(error)
                break
            finally:
                _opened = None
        inside = (str(out), str(work), str(around / "temporary"), "/dev/", "/proc/")
        facts["written"] = [path for path in opened if "__pycache__" not in path and not path.startswith(inside)]
        facts["left"] = [str(path.relative_to(around)) for path in around.rglob("*") if path.is_file()]
    facts["untouched"] = before == {path.name: digest(path) for path in given.iterdir()}
    (folder / "facts.json").write_text(json.dumps(facts), "utf-8")


def ran(name: str) -> tuple[Path, dict[str, Any]]:
    """The folder of ``run``, and its facts; it ran once however many tests and processes ask."""
    folder = once(f"pass-{name}", lambda out: run(name, out))
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    if "missing" in facts:
        pytest.skip(facts["missing"])
    return folder, facts


def test_the_graph_gives_both_labels_and_is_sure_of_them() -> None:
    labels = texts().dev.labels
    assert len(labels) == KEPT
    assert min(labels.count(0), labels.count(1)) >= KEPT / 4


@each_pass
def test_it_keeps_as_many_labels_as_it_promises(name: str, tmp_path: Path) -> None:
    folder, _ = ran(name)
    out = Path(shutil.copytree(folder / "one", tmp_path / "out"))
    for each in ("tokenizer.json", "interface.json"):
        if not (out / each).exists():  # a pass that changes what the graph reads writes its own
            shutil.copyfile(source() / each, out / each)
    data = texts().dev
    answers = parity.Graph(out, 1).logits(data.texts)
    assert answers.shape == (KEPT, 2)
    agreement = (answers.argmax(axis=1) == np.array(data.labels)).mean()
    assert agreement >= registry.get("optimize", name).of(GraphPass).AGREEMENT


@each_pass
def test_it_gives_the_dialect_that_it_declares(name: str) -> None:
    folder, _ = ran(name)
    model = graph.load(folder / "one/model.onnx")
    declared = registry.get("optimize", name).of(GraphPass).gives(settings(name), "standard")
    if name == "inc_auto":  # it declares what its search may end in; what runs that runs the narrower ones too
        assert DIALECTS.index(graph.dialect(model)) <= DIALECTS.index(declared)
    else:
        assert graph.dialect(model) == declared


@each_pass
def test_two_runs_give_equal_bytes(name: str) -> None:
    if registry.get("optimize", name).hooks.tunes(settings(name)):
        pytest.skip(f"{name} chooses by measured times")
    folder, _ = ran(name)
    files = [{path.name: digest(path) for path in (folder / turn).iterdir()} for turn in ("one", "other")]
    assert "model.onnx" in files[0]
    assert files[0] == files[1]


@each_pass
def test_it_writes_its_graph_and_nothing_else(name: str) -> None:
    folder, facts = ran(name)
    assert facts["untouched"]
    assert facts["written"] == []
    assert facts["left"] == []
    assert {path.name for path in (folder / "one").iterdir()} - {"interface.json"} == {"model.onnx"}


@each_pass
def test_a_dialect_that_it_does_not_take_is_refused_with_those_that_it_takes(name: str) -> None:
    taken = registry.get("optimize", name).of(GraphPass).TAKES
    foreign = [dialect for dialect in DIALECTS if dialect not in taken]
    assert "standard" in taken
    for dialect in foreign:
        text = f"task: reviews\nmodel: scratch:bert-1x32\nvariants: {{v: [export, {GIVERS[dialect]}, {name}]}}"
        with pytest.raises(RecipeError) as caught:
            recipe.parse(document.Document(document.parse_value(text), None))
        assert f"{name} takes dialect {' or '.join(taken)}, and gets {dialect} from" in str(caught.value)
