"""The example on the page for contributors is put in place and run, as a contributor would."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT, toolchain

PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the example in it, and the tests that every technique must pass."""
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "toolchain", folder / "toolchain", ignore=ignored)
    shutil.copytree(ROOT / "tests/contracts", folder / "tests/contracts", ignore=ignored)
    for name in ("__init__.py", "command.py"):
        shutil.copyfile(ROOT / "tests" / name, folder / "tests" / name)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    (technique,) = re.findall(r"`toolchain/optimize/(\w+)\.py`, all of it", PAGE)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (folder / "toolchain/optimize" / f"{technique}.py").write_text(code, "utf-8")
    return folder


def test_the_example_is_found_and_shown(copy: Path) -> None:
    listed = toolchain("list", "techniques", "--json", folder=copy, path=copy)
    assert "half_storage" in [found["name"] for found in json.loads(listed.stdout)["techniques"]], listed.stderr
    shown = toolchain("show", "half_storage", "--json", folder=copy, path=copy)
    (setting,) = json.loads(shown.stdout)["settings"]
    assert (setting["name"], setting["type"], setting["default"]) == ("least_elements", "int, ≥ 1", 256)
    assert setting["meaning"].startswith("Weights with fewer elements")


def test_the_example_halves_the_file_and_keeps_the_logits(copy: Path, tmp_path: Path, smoke_store: Path) -> None:
    import numpy as np
    import onnxruntime

    exported = toolchain("export", copy / "recipes/smoke.yaml", "--store", smoke_store, "--json")
    (found,) = json.loads(exported.stdout)
    out = tmp_path / "out"
    options = ["--technique", "half_storage", "-o", str(out), "--store", str(tmp_path / "store"), "--json"]
    done = toolchain("optimize", found["path"], *options, folder=copy, path=copy)
    assert done.returncode == 0, done.stderr
    (made,) = json.loads(done.stdout)
    assert made["metrics"]["narrowed"] >= 12  # 2 layers with 6 matrices each
    before, after = Path(found["path"]) / "model.onnx", out / "model.onnx"
    # All but 5 % of the file are weights, which shrink to half; their names and the casts add a little.
    assert 0.5 < after.stat().st_size / before.stat().st_size < 0.6
    feed = {name: np.ones((2, 9), dtype=np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    logits = [onnxruntime.InferenceSession(str(path)).run(None, feed)[0] for path in (before, after)]
    # Each weight is off by at most 2^-11 = 5e-4 of itself, and the logits are of order 1.
    assert 0 < np.abs(logits[0] - logits[1]).max() < 1e-3


def test_the_example_is_a_variant_of_a_recipe(copy: Path) -> None:
    variant = "variants.half=[export, {half_storage: {least_elements: 1024}}]"
    done = toolchain("validate", copy / "recipes/smoke.yaml", "--set", variant, folder=copy, path=copy)
    assert done.returncode == 0, done.stderr
    assert "4 engines" in done.stdout


def test_the_example_holds_the_contracts_of_every_technique(copy: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contracts/test_techniques.py"]
    done = subprocess.run(command, cwd=copy, env={"PYTHONPATH": str(copy)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_the_example_is_clean_by_the_projects_own_rules(copy: Path) -> None:
    path = copy / "toolchain/optimize/half_storage.py"
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--config", str(ROOT / "pyproject.toml"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
