"""The good inputs that cases change: a tiny run, and model, graph and data folders as strangers would send them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

#: The task of direct commands, small enough to be made in milliseconds.
TASK = "{reviews: {train_size: 32, dev_size: 16, test_size: 24}}"

RECIPE = f"""\
name: tiny
task: {TASK}
model: scratch:bert-1x32
stages:
  - finetune: {{epochs: 2, learning_rate: 1e-3, batch_size: 8}}
variants:
  base: [export]
  dynamic-int8: [export, dynamic_int8]
engines: [{{onnxruntime: {{tune: false}}}}]
benchmark: {{batch_sizes: [1, 4], seconds: 0.02, rounds: 3, sample: 8, warmup: 1, threads: 1}}
check: {{accuracy_drop: 50, engines: ["*int8"]}}
"""

#: Files that make a folder an artifact of ours; strangers' folders have none of them.
OURS = ("manifest.json", "interface.json", "history.json")

#: What a stranger's code does when it runs: it leaves a trace in the folder that this variable names.
TRACE = "FUZZ_TRACE"
PROGRAM = '#!/bin/sh\n: > "$FUZZ_TRACE/program"\n'
MODULE = "import os, pathlib\npathlib.Path(os.environ['FUZZ_TRACE'], 'module').touch()\nclass C: pass\n"

#: Words that a file outside the case's folder holds, and no answer may.
CANARY = "CANARY-7f3a"


class Reducer:
    """An object whose pickle runs code when it is opened."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Return what a pickle of this calls."""
        import os

        return os.system, (': > "$FUZZ_TRACE/pickle"',)


def make(root: Path, finished: Path | None = None, *, heavy: bool = True) -> None:
    """Write every good input below a folder.

    Args:
        root: The folder.
        finished: A folder with ``tiny.yaml`` and the ``store`` that it has been run in; without one it is run here.
        heavy: Those inputs too that only readers of models and graphs take.
    """
    from toolchain.core.store import Store

    root.mkdir(parents=True, exist_ok=True)
    if finished:
        shutil.copy(finished / "tiny.yaml", root / "r.yaml")
        shutil.copytree(finished / "store", root / "store")
    else:
        (root / "r.yaml").write_text(RECIPE, "utf-8")
        _main("run", str(root / "r.yaml"), "--store", str(root / "store"), "-q")
    artifacts = list(Store(root / "store").artifacts())
    plain(next(a.path for a in artifacts if a.kind == "checkpoint"), root / "model")
    plain(next(a.path for a in artifacts if a.kind == "onnx"), root / "graph")
    engine = next(a.path for a in artifacts if a.kind == "engine")
    shutil.copytree(engine, root / "engine", ignore=shutil.ignore_patterns("manifest.json"))
    shutil.copytree(root / "store" / "reports" / "tiny", root / "report")
    if heavy:
        _sharded(root / "model", root / "sharded")
        _external(root / "graph", root / "external")
    _data(root / "data", heavy=heavy)
    (root / "recipes").mkdir()
    for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")):
        shutil.copy(path, root / "recipes")


def plain(source: Path, folder: Path) -> None:
    """Copy a folder as other tools write it: without the files that only this program writes."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*OURS))


def _main(*argv: str) -> None:
    from toolchain.cli import main

    try:
        main(list(argv))
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"the good inputs could not be made: {argv} ended with {ended.code}") from None


def _sharded(model: Path, folder: Path) -> None:
    """Write the same weights as two files and their index."""
    from safetensors.numpy import load_file, save_file

    plain(model, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    where = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(names)}
    for file in sorted(set(where.values())):
        save_file({name: weights[name] for name in names if where[name] == file}, folder / file, {"format": "pt"})
    size = sum(weight.nbytes for weight in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


def _external(graph: Path, folder: Path) -> None:
    """Write the same graph with its weights in a file of their own."""
    import onnx

    plain(graph, folder)
    model = onnx.load(folder / "model.onnx")
    (folder / "model.onnx").unlink()
    onnx.save(
        model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=256
    )  # fmt: skip


def _data(folder: Path, *, heavy: bool) -> None:
    """Write twenty rows in every format that is read."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    rows = [{"sentence": f"text number {i} is fine", "label": i % 2} for i in range(20)]
    (folder / "d.csv").write_text("sentence,label\n" + "".join(f"{r['sentence']},{r['label']}\n" for r in rows))
    (folder / "d.tsv").write_text("sentence\tlabel\n" + "".join(f"{r['sentence']}\t{r['label']}\n" for r in rows))
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "d.parquet")
    if not heavy:
        return
    import datasets

    split = datasets.Dataset.from_list(rows)
    datasets.DatasetDict({"train": split, "validation": split}).save_to_disk(str(folder / "saved"))
