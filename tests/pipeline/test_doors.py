"""Links in folders from strangers, at the doors that are neither adopted nor served."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tiny import call, tiny
from toolchain.core.errors import ToolchainError
from toolchain.pipeline import history


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny().artifact("onnx", "export").path, tmp_path / "graph"))
    for name in ("manifest.json", "interface.json"):
        (folder / name).rename(tmp_path / name)
    shutil.copy(folder / "config.json", tmp_path / "secret.json")
    return folder


def _link(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(folder.parent / "secret.json")


@pytest.mark.parametrize("name", ["config.json", "interface.json"])
def test_a_first_recipe_reads_no_links(graph: Path, name: str) -> None:
    _link(graph, name)
    done = call("init", "graph", "-o", "recipe.yaml", cwd=graph.parent)
    assert done.code == 1
    assert f"graph/{name} is a symbolic link" in done.stderr


@pytest.mark.parametrize("name", ["tokenizer.json", "interface.json", "config.json", "tokenizer_config.json"])
def test_what_accompanies_an_engine_is_no_link(graph: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(tmp_path / "interface.json", graph)
    _link(graph, name)
    (tmp_path / "out").mkdir()
    with pytest.raises(ToolchainError, match=f"{name} is a symbolic link"):
        history.accompany(graph, tmp_path / "out")
    assert not (tmp_path / "out" / name).exists()


@pytest.mark.parametrize("command", ["report", "explain"])
def test_a_report_s_folder_has_no_link_to_another(tmp_path: Path, command: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "report.json").symlink_to(tiny().root / "store" / "reports" / "tiny" / "report.json")
    done = call(command, "folder", cwd=tmp_path)
    assert done.code == 1
    assert "folder/report.json is a symbolic link" in done.stderr
