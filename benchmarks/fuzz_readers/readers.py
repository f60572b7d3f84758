"""The readers: each makes a case in a folder from good inputs, and returns the command that is called on it."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_readers import changes, models
from fuzz_readers.goods import PROGRAM, RECIPE, TASK, Reducer
from toolchain.core.artifact import digest
from toolchain.core.manifest import seal

Argv = list[str]
#: Fills the current folder with a case and returns the command on it.
Maker = Callable[[random.Random, Path], Argv]


def _recipe(rng: random.Random, good: Path) -> Argv:
    sources = [RECIPE, *(path.read_text("utf-8") for path in sorted((good / "recipes").glob("*.yaml")))]
    source = sources[0] if rng.random() < 0.5 else rng.choice(sources)
    Path("x.sh").write_text(PROGRAM, "utf-8")
    Path("x.sh").chmod(0o755)
    what = rng.randrange(20)
    if what < 9:
        from ruamel.yaml import YAML

        models.write(Path("r.yaml"), changes.dumped(rng, changes.tree(rng, _plain(YAML(typ="safe").load(source)))))
    elif what < 15:
        models.write(Path("r.yaml"), changes.text(rng, source))
    elif what == 15:
        models.write(Path("r.yaml"), source + f"description: {changes.bomb(rng)}\n")
    elif what == 16:
        name = rng.choice(("export: {exporter: optimum, python: ./x.sh}", "inc_static: {python: ./x.sh}"))
        models.write(Path("r.yaml"), source.replace("base: [export]", f"base: [{{{name}}}]"))
    elif what == 17:
        models.write(Path("r.yaml"), source.replace("scratch:bert-1x32", str(rng.choice(changes.TEXTS))))
    else:
        models.write(Path("r.yaml"), changes.raw(rng, source.encode()))
    if rng.random() < 0.02:
        changes.file(rng, Path("r.yaml"), named=True)
    return rng.choice(
        (
            ["validate", "r.yaml"], ["validate", "r.yaml"], ["validate", "r.yaml", "--json"], ["show", "r.yaml"],
            ["explain", "r.yaml", "--store", "made"], ["run", "r.yaml", "--dry-run", "--store", "made"],
            ["export", "r.yaml", "--dry-run", "--store", "made"], ["gc", "r.yaml", "--dry-run", "--store", "made"],
        )
    )  # fmt: skip


def _plain(value: Any) -> Any:
    """Return YAML values as JSON has them."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _yaml(rng: random.Random, good: str) -> str:
    """Return a value for the command line: hostile, changed, or multiplying."""
    what = rng.randrange(10)
    if what < 3:
        return changes.text(rng, good)
    if what == 3:
        return changes.bomb(rng)
    if what < 6:
        return changes.dumped(rng, changes.hostile(rng)).decode("utf-8", "replace")
    return str(rng.choice(changes.TEXTS + changes.NUMBERS))


def _set(rng: random.Random, good: Path) -> Argv:
    Path("r.yaml").write_text(RECIPE, "utf-8")
    keys = (
        "finetune.epochs", "finetune.learning_rate", "name", "model", "task", "stages", "stages.0.epochs", "variants",
        "variants.base", "engines", "benchmark", "benchmark.threads", "benchmark.batch_sizes", "check", "report",
        "report.weights", "seeds", "baseline", "limits", "export.opset", "dynamic_int8.per_channel", "description",
        "onnxruntime.tune", "models", "unknown", "a.b.c.d", "", ".", "stages.-1", "stages.999999999999999999999",
    )  # fmt: skip
    key = rng.choice(keys) if rng.random() < 0.9 else str(rng.choice(changes.TEXTS))
    value = _yaml(rng, "{epochs: 2, learning_rate: 1e-3}")
    command = rng.choice((["validate", "r.yaml"], ["run", "r.yaml", "--dry-run", "--store", "made"]))
    return [*command, "--set", _argument(f"{key}={value}" if rng.random() < 0.97 else value)]


def _argument(text: str) -> str:
    """Return a text as a shell can hand it over: no NUL, bytes that are no UTF-8 as Python decodes them."""
    return os.fsdecode(text.replace("\0", "").encode("utf-8", "surrogatepass"))[:100_000]


def _task(rng: random.Random, good: Path) -> Argv:
    shutil.copytree(good / "model", "model")
    tasks = (
        TASK, "{files: {train: data/d.csv}, label: label}", "{glue: {dataset: data/saved}}", "sst2", "reviews",
        "{files: {train: data/d.jsonl, dev: data/d.csv}, text: sentence, labels: ['0', '1']}",
    )  # fmt: skip
    shutil.copytree(good / "data", "data")
    task = _argument(_yaml(rng, rng.choice(tasks)))
    return ["export", "model", "--dry-run", "--store", "made", "--task", task]


def _table(rng: random.Random, good: Path) -> Argv:
    name = rng.choice(("d.csv", "d.csv", "d.tsv", "d.jsonl", "d.jsonl", "d.parquet"))
    shutil.copy(good / "data" / name, name)
    path = Path(name)
    if rng.random() < 0.03:
        changes.file(rng, path, named=True)
    elif name == "d.parquet":
        _parquet(rng, path)
    elif name == "d.jsonl" and rng.random() < 0.7:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        changed = changes.tree(rng, rows)
        rows = changed if isinstance(changed, list) else [changed]
        models.write(path, b"\n".join(changes.dumped(rng, row).replace(b"\n", b" ") for row in rows))
    elif rng.random() < 0.6:
        models.write(path, changes.text(rng, path.read_text("utf-8")))
    else:
        models.write(path, changes.raw(rng, path.read_bytes()))
    more = rng.choice(("", "", ", delimiter: ';'", ", encoding: utf-16", ", text: text", ", labels: ['0', '1']"))
    recipe = RECIPE.replace(TASK, f"{{files: {{train: {name}}}{more}}}")
    Path("r.yaml").write_text(recipe, "utf-8")
    return rng.choice((["validate", "r.yaml"], ["validate", "r.yaml"], ["init", name, "-o", "made.yaml"]))


def _parquet(rng: random.Random, path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    what = rng.randrange(10)
    if what < 5:
        models.write(path, changes.raw(rng, path.read_bytes()))
        return
    rows = 2_000_000 if what == 5 else 20
    values: list[Any] = [changes.hostile(rng) for _ in range(3)]
    texts = ["the same text"] * rows if what == 5 else [str(rng.choice(changes.TEXTS)) for _ in range(rows)]
    texts = [text.encode("utf-8", "replace").decode() for text in texts] if what != 5 else texts
    labels: Any = pyarrow.array([n % 2 for n in range(rows)])
    if what == 6:
        labels = pyarrow.array([[n] for n in range(rows)])
    elif what == 7:
        labels = pyarrow.array([float("nan") if n % 2 else 1e308 for n in range(rows)])
    elif what == 8:
        labels = pyarrow.array([str(values[n % 3])[:50].encode("utf-8", "replace") for n in range(rows)])
    pyarrow.parquet.write_table(pyarrow.table({"sentence": texts, "label": labels}), path, compression="zstd")


def _saved(rng: random.Random, good: Path) -> Argv:
    shutil.copytree(good / "data" / "saved", "saved")
    files = sorted(path for path in Path("saved").rglob("*") if path.is_file())
    path = rng.choice(files)
    if path.suffix == ".json":
        if path.name == "state.json" and rng.random() < 0.3:
            state = json.loads(path.read_text("utf-8"))
            where = "../../../outside/data.arrow" if rng.random() < 0.5 else "OUTSIDE/data.arrow"
            models.write(path, json.dumps(state | {"_data_files": [{"filename": where}]}))
        else:
            models.change_json(rng, path)
    elif rng.random() < 0.2:
        changes.file(rng, path)
    else:
        models.write(path, changes.raw(rng, path.read_bytes()))
    Path("r.yaml").write_text(RECIPE.replace(TASK, "{glue: {dataset: saved}}"), "utf-8")
    return ["validate", "r.yaml"]


def _engine(rng: random.Random, good: Path) -> Argv:
    shutil.copytree(good / "engine", "engine")
    path = Path("engine") / rng.choice(("engine.json", "engine.json", "interface.json", "interface.json", "model.onnx",
                                        "tokenizer.json", "config.json", "history.json"))  # fmt: skip
    if path.suffix == ".json":
        models.change_json(rng, path)
    elif rng.random() < 0.2:
        changes.file(rng, path)
    else:
        models.write(path, changes.raw(rng, path.read_bytes()))
    (Path("engine") / "plan.pickle").write_bytes(pickle.dumps(Reducer()))
    opened = ["--open"] if rng.random() < 0.6 else []
    if rng.random() < 0.1:
        return ["benchmark", "engine", "--dry-run", *models.DIRECT]
    return ["doctor", "--engine", "engine", *opened]


def _stored(rng: random.Random, good: Path, pattern: str) -> Argv:
    """A copy of the store of which one JSON file is changed."""
    shutil.copytree(good / "store", "store")
    shutil.copy(good / "r.yaml", "r.yaml")
    path = rng.choice(sorted(Path("store").glob(pattern)))
    if pattern.startswith("*") and rng.random() < 0.2:
        manifest = json.loads(path.read_text("utf-8"))
        key = rng.choice(
            ("../../victim", "../../../outside", "/OUTSIDE", "..", ".", "", "a" * 300, path.parent.name[:-1])
        )
        name = rng.choice(("../../../../outside/secret.txt", "OUTSIDE/secret.txt", "/dev/zero"))
        extra = {name: {"bytes": 12, "sha256": "0" * 64}}
        manifest |= rng.choice(({"key": key}, {"kind": key}, {"files": manifest["files"] | extra}, {"parents": [key]}))
        models.write(path, json.dumps(manifest))
    else:
        models.change_json(rng, path)
    if rng.random() < 0.8 and all(_small(each) for each in (path, path.with_name("manifest.json"))):
        _fit(path)
    key = path.parent.name
    chosen = rng.choice(
        (
            ["report", "r.yaml"], ["report", "r.yaml", "-o", "out"], ["verify"], ["list", "artifacts"], ["show", key],
            ["explain", key], ["gc", "--all", "--yes"], ["gc", "r.yaml", "--dry-run"], ["explain", "r.yaml"],
            ["run", "r.yaml", "--dry-run"], ["import", "store"], ["choose", "r.yaml"],
        )
    )  # fmt: skip
    return [*chosen, "--store", "made" if chosen[0] == "import" else "store"]


def _small(path: Path) -> bool:
    """Return whether a file is one that can be read here: no pipe, no device, no gigabytes of holes."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20


def _fit(path: Path) -> None:
    """Make digests and the seal fit a changed file, so that what is behind them is tried too."""
    record = path.with_name("manifest.json")
    try:
        manifest = json.loads(record.read_text("utf-8"))
        if path != record:
            manifest["files"][path.name] = {"sha256": digest(path), "bytes": path.stat().st_size}
        manifest["seal"] = seal(manifest)
        record.write_text(json.dumps(manifest), "utf-8")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # no manifest any more


def _report(rng: random.Random, good: Path) -> Argv:
    report = json.loads((good / "report" / "report.json").read_text("utf-8"))
    if rng.random() < 0.9:
        report.pop("seal", None)  # or none that was changed would be read
    changed = changes.tree(rng, report)
    models.write(Path("report.json"), changes.dumped(rng, changed))
    if rng.random() < 0.02:
        changes.file(rng, Path("report.json"), named=True)
    return rng.choice(
        (
            ["report", "report.json", "-o", "out"], ["report", "report.json", "-o", "out"], ["report", "report.json"],
            ["report", "report.json", str(good / "report"), "-o", "out"], ["explain", "report.json"],
            ["choose", "report.json"],
        )
    )  # fmt: skip


def _arguments(rng: random.Random, good: Path) -> Argv:
    from fuzz_readers import arguments

    return arguments.draw(rng, good)


def _onnx(rng: random.Random, good: Path) -> Argv:
    from fuzz_readers import graphs

    return graphs.draw(rng, good)


#: Reader to what makes a case of it.
READERS: dict[str, Maker] = {
    "recipe": _recipe,
    "set": _set,
    "task": _task,
    "data": _table,
    "saved-data": _saved,
    "config": lambda rng, good: models.model(rng, good, "config.json", models.config),
    "tokenizer": lambda rng, good: models.model(rng, good, "tokenizer.json", models.tokenizer),
    "tokenizer-config": lambda rng, good: models.model(rng, good, "tokenizer_config.json", models.tokenizer_config),
    "safetensors": lambda rng, good: models.model(rng, good, "model.safetensors", models.safetensors),
    "index": models.shard,
    "onnx": _onnx,
    "engine": _engine,
    "manifest": lambda rng, good: _stored(rng, good, "*/*/manifest.json"),
    "evaluation": lambda rng, good: _stored(rng, good, "evaluation/*/evaluation.json"),
    "timing": lambda rng, good: _stored(rng, good, "timing/*/timing.json"),
    "report": _report,
    "arguments": _arguments,
}

#: Readers of models, graphs and engines: their cases need PyTorch or a runtime.
HEAVY = frozenset(
    {"saved-data", "config", "tokenizer", "tokenizer-config", "safetensors", "index", "onnx", "engine"}
)  # fmt: skip

#: Commands on inputs that nobody changed: what they import and open, every case may.
UNCHANGED: tuple[Argv, ...] = (
    ["validate", "r.yaml"], ["explain", "r.yaml", "--store", "store"], ["run", "r.yaml", "-q", "--store", "store"],
    ["report", "r.yaml", "--store", "store", "-o", "out"], ["report", "report/report.json", "-o", "out"],
    ["verify", "--store", "store"], ["list", "artifacts", "--store", "store"], ["gc", "--all", "--dry-run"],
    ["init", "data/d.csv", "-o", "made.yaml"], ["choose", "r.yaml", "--store", "store"], ["show", "dynamic_int8"],
    ["import", "store", "--store", "made"],
)  # fmt: skip

#: The same for the readers that need more.
UNCHANGED_HEAVY: tuple[Argv, ...] = (
    ["init", "data/d.parquet", "model", "-o", "made2.yaml"], list(models.LOADED), ["export", "sharded", *models.DIRECT],
    ["export", "model", "--task", "{glue: {dataset: data/saved}}", "--store", "made", "-q"],
    ["doctor", "--engine", "engine", "--open"], ["optimize", "external", "-t", "clean", *models.DIRECT],
    ["build", "graph", "-e", "openvino", *models.DIRECT],
    ["optimize", "graph", "-t", "clean", "--task", "{files: {train: data/d.parquet}}", "-q", "--store", "made"],
)  # fmt: skip

#: Readers whose cases take milliseconds: they get most of them.
CHEAP = {"recipe": 6, "set": 5, "task": 3, "data": 5, "report": 5, "arguments": 4, "manifest": 2}
