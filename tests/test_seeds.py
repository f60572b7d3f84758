from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SEEDS: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/seeds.py"))


def test_a_line_pools_the_seeds_that_both_have(tmp_path: Path) -> None:
    def row(variant: str, seed: int, right: list[bool]) -> dict[str, Any]:
        return {
            "model": "model", "variant": variant, "engine": "onnxruntime", "seed": seed, "dev_percent": 50.0,
            "test_percent": 100 * float(np.mean(right)), "examples": len(right), "agreement": 0.99 + seed / 1000,
            "right": np.packbits(right).tobytes().hex(), "size_bytes": 2e6, "train_seconds": 1.0,
            "trained_on": "2 cores of some processor",
            "metrics": {"sqnr_db": 10.0 * seed, "sqnr_before_db": 9.0},
        }  # fmt: skip

    rows = [
        row("base", 1, [True] * 9),
        row("base", 2, [True] * 9),
        row("less", 1, [True] * 6 + [False] * 3),
        row("less", 3, [False] * 9),
    ]
    base, less = SEEDS["summary"](rows, ["base"])
    assert less["against base"][0] == pytest.approx(-100 / 3)  # of seed 1 alone, which both have
    assert less["seeds"] == [1, 3]
    assert less["lowest_agreement"] == pytest.approx(0.991)
    assert less["metrics"]["sqnr_db"] == pytest.approx(20)
    assert "against base" not in base
    found = {"recipe": "x", "against": ["base"], "settings": ["finetune.epochs=1"], "rows": rows}
    SEEDS["write"](tmp_path / "out/x.json", found)
    page = (tmp_path / "out/x.md").read_text("utf-8")
    assert "| less | 2 | 33.33 |" in page
    assert "trained on 2 cores of some processor" in page
    assert "Settings beside the recipe's: `finetune.epochs=1`." in page


def test_a_recipe_is_run_for_every_seed_and_found_again(tmp_path: Path) -> None:
    for name, count in (
        ("given/train", 32),
        ("given/dev", 16),
        ("judge/train", 2),
        ("judge/dev", 2),
        ("judge/test", 24),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        rows = (f"{name} {number} is {('bad', 'good')[number % 2]}\t{number % 2}\n" for number in range(count))
        (tmp_path / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(rows), "utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "task: sst2\nmodel: scratch:bert-1x32\n"
        "stages: [{finetune: {epochs: 1}}]\nvariants: {base: [export], other: [export]}\n"
        "engines: [{onnxruntime: {tune: false}}]\nbenchmark: {threads: 1}\n"
        "evaluate: {isa: 'off', invariance: 'off'}\n",
        "utf-8",
    )
    command = [sys.executable, str(ROOT / "benchmarks/seeds.py"), str(recipe), "--seeds", "1", "2"]
    command += [
        "--data",
        str(tmp_path / "given"),
        "--store",
        str(tmp_path / "store"),
        "--out",
        str(tmp_path / "out.json"),
    ]
    for wrong in (
        ["--variants", "orther"],
        ["--against", "nobody"],
        ["--judge", "nowhere"],
        ["--judge", str(recipe)],
        ["--judge", str(tmp_path / "given")],
        ["--out", str(tmp_path)],
        ["--out", str(tmp_path / "out.md")],
        ["--out", "/proc/nowhere/out.json"],
        ["--page", str(recipe)],
    ):
        refused = subprocess.run([*command, *wrong], capture_output=True, text=True, check=False)
        assert refused.returncode in (1, 2)
        assert wrong[1] in refused.stderr
        assert "Traceback" not in refused.stderr
        assert "[1/" not in refused.stderr
        assert not (tmp_path / "out.json").exists()
    nothing = subprocess.run([*command, "--found"], capture_output=True, text=True, check=False)
    assert (nothing.returncode, (tmp_path / "out.json").exists()) == (1, False)
    assert "0 of 4 engines were evaluated" in nothing.stderr
    made = subprocess.run([*command, "--variants", "base"], capture_output=True, text=True, check=True)
    assert "[1/8] finetune" in made.stderr
    assert "finetune" not in nothing.stderr
    subprocess.run([*command, "--found"], capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "out.json").read_text("utf-8"))["rows"]
    assert [(row["variant"], row["seed"]) for row in rows] == [("base", 1), ("other", 1), ("base", 2), ("other", 2)]
    assert all(0 <= row["test_percent"] <= 100 and row["examples"] == 16 and row["trained_on"] for row in rows)
    cut = ["--set", "variants.other=[{low_rank: {rank: 8, calibration_samples: 8}}, export]", "--variants", "other"]
    subprocess.run([*command, *cut, "--seeds", "1"], capture_output=True, text=True, check=True)
    metrics = json.loads((tmp_path / "out.json").read_text("utf-8"))["rows"][-1]["metrics"]
    assert metrics["parameters"] > 0
    assert "kept" not in metrics  # by matrix, and no number
    alone = [*command, "--variants", "base", "--against", "other", "--found", "--set", "variants.other=[export, clean]"]
    told = subprocess.run(alone, capture_output=True, text=True, check=True)
    assert "--against other: not among them" in told.stderr
    assert "points against" not in told.stdout
    command += ["--judge", str(tmp_path / "judge")]
    other = subprocess.run([*command, "--variants", "base"], capture_output=True, text=True, check=True)
    judged = json.loads((tmp_path / "out.json").read_text("utf-8"))["rows"]
    assert [(row["seed"], row["examples"]) for row in judged] == [(1, 24), (2, 24)]  # by what was trained before
    assert ("finetune" not in other.stderr, other.stderr.count("evaluate base")) == (True, 2)
    assert "Judged on 24 sentences of a file of their own" in other.stdout
    before = (tmp_path / "out.json").read_text("utf-8")
    lost = subprocess.run([*command, "--found", "--seeds", "99"], capture_output=True, text=True, check=False)
    assert (lost.returncode, (tmp_path / "out.json").read_text("utf-8")) == (1, before)
    subprocess.run([*command[:2], "--page", str(tmp_path / "out.json")], check=True)
    assert (tmp_path / "out.json").read_text("utf-8") == before


@pytest.mark.parametrize(
    "path", sorted((ROOT / "artifacts/published/seeds").glob("*.json")), ids=lambda path: path.stem
)
def test_published_tables_say_what_the_figures_beside_them_say(path: Path) -> None:
    found = json.loads(path.read_text("utf-8"))
    again = found | {"lines": SEEDS["summary"](found["rows"], found["against"])}
    assert SEEDS["page"](again) == SEEDS["page"](found) == path.with_suffix(".md").read_text("utf-8")


def test_published_gpu_pages_say_what_the_figures_beside_them_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu_check import table

    folder = ROOT / "artifacts/published/gpu"
    found = json.loads((folder / "gpu.json").read_text("utf-8"))
    assert table.page(found) == (folder / "gpu.md").read_text("utf-8")
    assert table.summary(found) == (folder / "summary.md").read_text("utf-8")
