"""What plans are made of: bytes, build time, and what their layers compute in, for families × precisions × devices.

``python benchmarks/plans.py --model bert=SOURCE --model roberta=SOURCE --model albert=SOURCE`` takes the variants of
``recipes/tensorrt.yaml`` up to their plans, without a GPU, and writes one table as Markdown and JSON into
``artifacts/published/plans/``. Sizes, times and precisions do not hang on what a model has learned, so that a new head
is trained for a few steps alone; accuracy is not measured. What the store has is not built again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolchain.core.errors import ToolchainError
from toolchain.core.log import setup
from toolchain.core.store import Artifact, Store
from toolchain.measure.machine import machine
from toolchain.pipeline import plan, recipe, run

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "tensorrt.yaml"
OUT = ROOT / "artifacts" / "published" / "plans"

#: Training that sizes do not hang on, and no accuracy that sparsity would have to keep.
SETS = (
    "task={reviews: {train_size: 64, dev_size: 64, test_size: 16}}", "finetune.epochs=1", "sparsity_24.max_drop=100",
    "engines=[tensorrt, {tensorrt: {as: one device, compute_capabilities: [89]}}]",
    "baseline={variant: fp32, engine: tensorrt}",
)  # fmt: skip

#: What of a plan's metrics is kept.
KEPT = (
    "bytes", "source_bytes", "build_s", "layers", "products", "int8_products", "sparse_weights", "library",
    "compute_capabilities", "profiles",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Builds the plans and writes the table.

    Args:
        arguments: Those of the command line.

    Returns:
        0, or 1 where a plan could not be built.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", default=[], metavar="NAME=SOURCE", required=True)
    parser.add_argument("--variant", action="append", default=[], help="only this one; may be given several times")
    parser.add_argument("--store", type=Path, default=Path("artifacts"))
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(arguments)
    setup(0)
    run.quiet_libraries()
    store, found, failed = Store(chosen.store), list[dict[str, Any]](), dict[str, str]()
    for name, _, source in (text.partition("=") for text in chosen.model):
        made = plan.make(recipe.load(RECIPE, [*SETS, f"model={json.dumps(source)}"]), "build")
        wanted = {row.build for row, _ in made.not_run} | {row.build for row in made.rows}
        outcome = run.execute(made, store)
        rows = [*made.rows, *(row for row, _ in made.not_run)]
        for row in rows:
            if row.build in outcome.artifacts and (not chosen.variant or row.variant in chosen.variant):
                found.append(record(name, row.variant, row.engine, outcome.artifacts[row.build]))
        failed |= {f"{name}: {made.steps[i].label}": why for i, why in outcome.failed.items() if i in wanted}
    record_all = {"machine": {k: machine()[k] for k in ("cpu", "physical_cores", "gpus")}, "plans": found}
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "plans.json").write_text(json.dumps(record_all | {"failed": failed}, indent=1) + "\n", "utf-8")
    (chosen.out / "plans.md").write_text("\n".join(page(record_all)) + "\n", "utf-8")
    for label, why in failed.items():
        sys.stderr.write(f"{label}: {why}\n")
    return 1 if failed else 0


def record(model: str, variant: str, engine: str, built: Artifact) -> dict[str, Any]:
    """What is kept of a plan."""
    metrics = {name: built.metrics[name] for name in KEPT if name in built.metrics}
    return {"model": model, "variant": variant, "engine": engine, **metrics}


def page(found: Mapping[str, Any]) -> Iterator[str]:
    """The table, and what it was made on."""
    plans = found["plans"]
    if not plans:
        raise ToolchainError("no plan was built", "see the errors above")
    library, capabilities = plans[0]["library"], plans[0]["compute_capabilities"]
    yield "| model | variant | ONNX MB | plan MB | on one device | build s | layers | products | 8 bits | 2:4 weights |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | --- | --- | ---: | ---: |"
    every = {(item["model"], item["variant"]): item for item in plans if item["engine"] == "tensorrt"}
    one = {(item["model"], item["variant"]): item for item in plans if item["engine"] != "tensorrt"}
    for key, item in every.items():
        alone = f"{one[key]['bytes'] / 1e6:.1f}" if key in one else "–"
        layers, products = (", ".join(f"{n} {kind}" for kind, n in item[key].items()) for key in ("layers", "products"))
        integers = "{} of {}".format(*item["int8_products"]) if item["int8_products"][1] else "–"
        sparse = "{} of {}".format(*item["sparse_weights"])
        yield (
            f"| {item['model']} | {item['variant']} | {item['source_bytes'] / 1e6:.1f} | {item['bytes'] / 1e6:.1f} | "
            f"{alone} | {item['build_s']:.1f} | {layers} | {products} | {integers} | {sparse} |"
        )
    yield ""
    yield (
        f"{library['name']} {library['version']}, built without a GPU on {found['machine']['physical_cores']} cores of "
        f"{found['machine']['cpu']}. A plan is for compute capabilities {', '.join(map(str, capabilities))} together "
        "(fp8: from 89 on); on one device: 89 alone. Layers: of the plan, by the widest float that they touch, or by "
        "what products read; each profile of shapes has its own. Products: layers that multiply matrices; some hold "
        "several of the graph's, and attention in fp16 is one generated kernel with its softmax, which is not among "
        "them. 8 bits: products of the graph that the plan computes in int8 or FP8, of those that are quantized. "
        "Heads were trained for a few steps. Nothing was executed."
    )


if __name__ == "__main__":
    raise SystemExit(main())
