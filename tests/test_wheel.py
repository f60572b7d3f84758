"""The wheel has the recipes and their data: a run by name needs no repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.command import RECIPES, ROOT, toolchain


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the sources, unpacked as an installation would."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in ("toolchain", "recipes"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    # Without isolation and index: what builds the wheel is installed, and nothing is downloaded.
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", folder, sources], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_has_every_recipe_and_its_data(site: Path) -> None:
    held = {path.relative_to(site / "toolchain").as_posix() for path in (site / "toolchain/recipes").rglob("*.*")}
    assert len(RECIPES) >= 20
    assert {path.relative_to(ROOT).as_posix() for path in RECIPES} <= held
    tables = {f"recipes/data/tickets-{part}.csv" for part in ("train", "dev", "test")}
    assert {*tables, "recipes/data/packages.py"} <= held
    top = {path.name for path in site.iterdir()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"toolchain"}, "nothing else is installed"


@pytest.mark.parametrize("name", ["smoke", "recipes/tickets.yaml"])
def test_a_recipe_of_the_package_runs_from_an_empty_folder(site: Path, tmp_path: Path, name: str) -> None:
    done = toolchain("run", name, "--dry-run", "--model", "scratch:bert-2x64", folder=tmp_path, path=site)
    assert done.returncode == 0, done.stderr
    assert "0 in the store" in done.stdout


def test_a_file_at_hand_is_meant_before_the_one_of_the_package(site: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/smoke.yaml").write_text("model: scratch:bert-1x32\nvariants: {mine: [export]}\n")
    done = toolchain("validate", "recipes/smoke.yaml", "--json", folder=tmp_path, path=site)
    assert '"mine/onnxruntime"' in done.stdout, done.stderr
    assert '"base/onnxruntime"' in toolchain("validate", "smoke", "--json", folder=tmp_path, path=site).stdout
