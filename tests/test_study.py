from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
STUDY: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/study.py"))
PUBLISHED = ROOT / "artifacts/published/sst2-study"


def made() -> tuple[dict[str, Any], dict[str, Any]]:
    """A report and seeds of every row of the study, twice as good as its: half as small, twice as fast, no loss."""
    lines, judged = [], []
    for model, found in STUDY["TABLE"].items():
        base = found["base"]
        for name, told in (*found.items(), ("both", base)):
            line = {"model": model, "variant": name, "seed": 17, "examples": 1821, "size_mb": 10.0}
            line |= {"compression": 2 * base.size_mb / told.size_mb, "latency_engine_p50_ms": 1.5}
            lines.append(line | {"speedup_batch_1": 1.25, "speedup_batch_32": 2 * told.speedup})
            pooled = {"model": model, "variant": name, "seeds": [17, 42], "test_percent": 90.0}
            judged.append(pooled | ({} if name == "base" else {"against base": [0.0, -5.0, 1.0]}))
    machine = {"cpu": "some processor", "physical_cores": 2}
    report = {"lines": lines, "speedup": "batch 32", "machine": machine, "settings": {"threads": 2}, "split": "test"}
    return report, {"lines": judged}


def test_every_compressed_row_is_held_to_the_study() -> None:
    report, seeds = made()
    page = STUDY["page"](report, seeds)
    assert page.count("| size, speed, accuracy | open |") == 9
    assert "size ratio 9 of 9, speedup 9, change of accuracy 9" in page
    # The study's BERT: 154.32 MB to 66.75, 1.84 times as fast, 92.75 % to 91.90.
    assert "| bert quantized | 4.62 | 2.31 | 3.68 | 1.25 | 1.84 | 0.00 (-5.00 to +1.00) | -0.85 |" in page
    assert page.count("both | 90.00 |") == 3


def test_what_is_worse_is_not_beaten_and_what_is_beyond_doubt_is_said() -> None:
    report, seeds = made()
    for line in report["lines"]:
        line |= {"compression": 1.0} if line["variant"] == "pruned" else {}
    for line in seeds["lines"]:
        line |= {"distilled": {"against base": [-3.0, -4.0, -2.0]}, "pruned": {"against base": [0.0, -0.5, 0.5]}}.get(
            line["variant"], {}
        )
    page = STUDY["page"](report, seeds)
    assert page.count("| speed, accuracy | yes |") == 3
    assert page.count("| size, speed | no |") == 3
    assert "size ratio 6 of 9, speedup 9, change of accuracy 6" in page


def test_what_cannot_be_compared_is_refused_with_what_is_missing() -> None:
    report, seeds = made()
    again = {**report, "lines": [*report["lines"], {**report["lines"][0], "seed": 42}]}
    with pytest.raises(ValueError, match=r"seeds \[17, 42\]"):
        STUDY["page"](again, seeds)
    bare = {**report, "lines": [line for line in report["lines"] if line["model"] != "albert"]}
    bare["lines"][1] = {**bare["lines"][1], "speedup_batch_32": None}
    with pytest.raises(ValueError, match="lacks bert quantized, albert base, albert quantized"):
        STUDY["page"](bare, seeds)
    with pytest.raises(ValueError, match=r"seeds\.json lacks"):
        STUDY["page"](report, {"lines": seeds["lines"][1:]})


def test_the_published_page_is_of_the_figures_beside_it() -> None:
    assert (PUBLISHED / "study.md").read_text("utf-8") == STUDY["page"](*STUDY["read"](PUBLISHED))
