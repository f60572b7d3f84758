"""Int8 against fused fp32 at the shapes of BERT-base, ALBERT-base and RoBERTa-base, and the size of the files.

    python benchmarks/shapes.py --threads 2 --out artifacts/published/shapes

The weights are random: they serve for time and size alone. Every engine of a family is open at once; rounds of all of
them are interleaved, in an order that turns with every round; what is printed is the median over rounds and the 95 %
bootstrap interval of the paired ratio. Batches are of fixed shape: every row has as many tokens as the batch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.certainty.statistics import speedup
from toolchain.core import registry
from toolchain.core.log import logger, setup
from toolchain.core.processors import physical_cores
from toolchain.core.stage import Context
from toolchain.measure.machine import machine
from toolchain.model import checkpoint, scratch
from toolchain.tasks import reviews

FAMILIES = ("bert", "albert", "roberta")
BATCHES = (1, 16)
TOKENS = (32, 128)

#: Ranges of random weights' activations need no care.
STATIC = ("static_int8", {"calibration": "min_max", "calibration_samples": 32})

#: Engine → the graph passes before it, and who builds it.
ENGINES: dict[str, tuple[tuple[tuple[str, dict[str, Any]], ...], str]] = {
    "fp32 onnxruntime": ((), "onnxruntime"),
    "fp32 openvino": ((), "openvino"),
    "int8 dynamic onnxruntime": ((("dynamic_int8", {}),), "onnxruntime"),
    "int8 static onnxruntime": ((STATIC,), "onnxruntime"),
    "int8 static openvino": ((STATIC,), "openvino"),
    "cls_only int8 dynamic onnxruntime": ((("cls_only", {}), ("dynamic_int8", {})), "onnxruntime"),
    "cls_only int8 static openvino": ((("cls_only", {}), STATIC), "openvino"),
}  # fmt: skip

#: What every ratio is against: fp32 with every fusion.
BASELINE = "fp32 onnxruntime"


def create(family: str, folder: Path) -> int:
    """Writes a classifier of a family's base shape.

    Returns:
        Bytes of its parameters in fp32, shared ones once.
    """
    import torch
    import transformers

    data = reviews.load(reviews.Config())
    scratch.create(f"scratch:{family}-1x32", data.train.texts, 17, folder / "small")
    torch.manual_seed(17)
    sizes = {
        "bert": {},
        "roberta": {"vocab_size": 50265, "max_position_embeddings": 514},
        "albert": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    }[family]
    config = transformers.AutoConfig.for_model(family, **sizes)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    (folder / "checkpoint").mkdir()
    tokenizer = checkpoint.load_tokenizer(folder / "small")
    checkpoint.save(model, tokenizer, folder / "checkpoint", max_length=128, labels=data.labels, pair=False)
    return 4 * sum(int(parameter.numel()) for parameter in model.parameters())


def build(folder: Path, threads: int) -> dict[str, Path]:
    """Builds every engine of a family; gives their folders."""
    data = reviews.load(reviews.Config())
    made: dict[tuple[Any, ...], Path] = {}

    def step(technique: registry.Technique, source: Path, settings: Mapping[str, Any]) -> Path:
        key = (technique.name, source, json.dumps(settings))
        if key not in made:
            out = Path(tempfile.mkdtemp(prefix=f"{technique.name}-", dir=folder))
            work = Path(tempfile.mkdtemp(dir=folder))
            context = Context(work=work, seed=17, threads=threads, dataset=lambda: data)
            logger.info("    %s", technique.name)
            act = technique.module.build if technique.folder == "engines" else technique.module.apply
            act(source, out, technique.config(**settings), context)
            checkpoint.copy_tokenizer(source, out)
            if not (out / "interface.json").is_file():
                shutil.copyfile(source / "interface.json", out / "interface.json")
            made[key] = out
        return made[key]

    exported = step(registry.stage("export"), folder / "checkpoint", {})
    engines = {}
    for name, (passes, engine) in ENGINES.items():
        graph = exported
        for technique, settings in passes:
            graph = step(registry.get("optimize", technique), graph, settings)
        engines[name] = step(registry.get("engines", engine), graph, {})
    return engines


def time_all(engines: Mapping[str, Path], threads: int, rounds: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Times every engine at every shape; one record for each."""
    sessions = {}
    for name, folder in engines.items():
        module = registry.get("engines", name.rsplit(" ", 1)[1]).module
        sessions[name] = module.open_session(folder, threads)
    generator = np.random.default_rng(17)
    for batch in BATCHES:
        for tokens in TOKENS:
            feed = {
                "input_ids": generator.integers(5, 100, (batch, tokens)),
                "attention_mask": np.ones((batch, tokens), dtype=np.int64),
                "token_type_ids": np.zeros((batch, tokens), dtype=np.int64),
            }
            taken: dict[str, list[float]] = {name: [] for name in sessions}
            names = list(sessions)
            for number in range(rounds + 1):
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    inputs = {key: feed[key] for key in sessions[name].inputs}
                    each: list[float] = []
                    until = time.perf_counter() + seconds
                    while not each or time.perf_counter() < until:
                        started = time.perf_counter()
                        sessions[name].run(inputs)
                        each.append(time.perf_counter() - started)
                    if number:  # the first round is for warming up
                        taken[name].append(float(np.median(each)))
            for name, found in taken.items():
                ratio = speedup(taken[BASELINE], found)
                yield {
                    "engine": name, "batch": batch, "tokens": tokens, "ms": 1000 * float(np.median(found)),
                    "ratio": ratio.estimate, "low": ratio.low, "high": ratio.high,
                }  # fmt: skip


def page(record: Mapping[str, Any]) -> str:
    """What ``shapes.md`` says of ``shapes.json``."""
    told = (
        f"{record['cpu']}, {record['threads']} threads, random weights, median of {record['rounds']} rounds; "
        "in brackets the 95 % interval of the ratio to fp32 on ONNX Runtime, fused."
    )
    return "\n".join([*markdown(record["families"]), told, ""])


def markdown(records: list[dict[str, Any]]) -> Iterator[str]:
    """A table for every family: milliseconds of a batch, and how many times faster than fused fp32."""
    shapes = [(batch, tokens) for batch in BATCHES for tokens in TOKENS]
    for record in records:
        yield f"**{record['family']}-base** (parameters: {record['parameter_bytes'] / 1e6:.1f} MB in fp32)"
        yield ""
        yield f"| engine | MB |{''.join(f' batch {b} × {t} tokens |' for b, t in shapes)}"
        yield f"| --- | ---: |{' ---: |' * len(shapes)}"
        for name, size in record["bytes"].items():
            cells = []
            for batch, tokens in shapes:
                cell = next(
                    t for t in record["times"] if (t["engine"], t["batch"], t["tokens"]) == (name, batch, tokens)
                )
                cells.append(f"{cell['ms']:.1f} ms, {cell['ratio']:.2f} × ({cell['low']:.2f}–{cell['high']:.2f})")
            yield f"| {name} | {size / 1e6:.1f} | {' | '.join(cells)} |"
        yield ""


def main(arguments: list[str] | None = None) -> int:
    """Builds, times and prints.

    Args:
        arguments: Those of the command line.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--rounds", type=int, default=9, help="0 builds, and times nothing [default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=0.5, help="of an engine's turn in a round")
    parser.add_argument("--work", type=Path, default=None, help="folder of what is built; it is kept and used again")
    parser.add_argument("--out", type=Path, default=None, help="folder for shapes.md and shapes.json")
    chosen = parser.parse_args(arguments)
    setup(0)
    records = []
    with tempfile.TemporaryDirectory(prefix="toolchain-shapes-") as scratch_folder:
        for family in chosen.families:
            folder = (chosen.work or Path(scratch_folder)) / family
            built = folder / "engines.json"
            if not built.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                logger.info("%s-base: building", family)
                parameters = create(family, folder)
                made = {name: str(path) for name, path in build(folder, chosen.threads).items()}
                built.write_text(json.dumps({"parameter_bytes": parameters, "engines": made}), encoding="utf-8")
            found = json.loads(built.read_text("utf-8"))
            engines = {name: Path(path) for name, path in found["engines"].items()}
            sizes = {name: _size(path) for name, path in engines.items()}
            if not chosen.rounds:
                continue
            logger.info("%s-base: timing", family)
            times = list(time_all(engines, chosen.threads, chosen.rounds, chosen.seconds))
            parameters = found["parameter_bytes"]
            records.append({"family": family, "parameter_bytes": parameters, "bytes": sizes, "times": times})
    if not chosen.rounds:
        return 0
    facts = {"threads": chosen.threads, "rounds": chosen.rounds, "cpu": machine()["cpu"]}
    record = {**facts, "families": records}
    table = page(record)
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / "shapes.md").write_text(table, encoding="utf-8")
        (chosen.out / "shapes.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(table)
    return 0


def _size(engine: Path) -> int:
    from toolchain.engines.shared.artifact import read_engine

    return sum((engine / name).stat().st_size for name in read_engine(engine).files)


if __name__ == "__main__":
    sys.exit(main())
