"""What ``-o`` and the store's reports are written to: never through a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tiny import call, tiny


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a store in which everything has been run, and a file and a folder that nothing may write to."""
    tiny().copy(tmp_path)
    (tmp_path / "victim").write_text("as it was")
    (tmp_path / "away").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path


def untouched(folder: Path) -> bool:
    return (folder / "victim").read_text() == "as it was" and not list((folder / "away").iterdir())


@pytest.mark.parametrize("name", ["report.html", "report.json", "accuracy.svg", "front.svg"])
def test_a_report_is_not_written_through_a_link(here: Path, name: str) -> None:
    (here / "out" / name).symlink_to(here / "victim")
    done = call("report", "tiny.yaml", "--store", "store", "-o", "out", cwd=here)
    assert done.code == 1
    assert f"-o out: out/{name} is a link to {here / 'victim'}; nothing is written through it" in done.stderr
    assert untouched(here)
    (here / "out" / name).unlink()
    (here / "out" / name).symlink_to(here / "new")  # leads to nothing yet
    assert call("report", "tiny.yaml", "--store", "store", "-o", "out", cwd=here).code == 1
    assert not (here / "new").exists()


def test_the_store_s_own_report_is_not_written_through_a_link(here: Path) -> None:
    page = here / "store" / "reports" / "tiny" / "report.html"
    page.unlink()
    page.symlink_to(here / "victim")
    done = call("run", "tiny.yaml", "--store", "store", cwd=here)
    assert done.code == 1
    assert "report.html is a link to" in done.stderr
    assert untouched(here)


def test_an_engine_is_not_written_through_a_link(here: Path) -> None:
    (here / "link").symlink_to(here / "away")
    argv = ("build", "tiny.yaml", "--store", "store", "--variant", "base", "-o")
    done = call(*argv, "link", cwd=here)
    assert done.code == 1
    assert f"-o link: link is a link to {here / 'away'}; nothing is written through it" in done.stderr
    assert untouched(here)
    assert call(*argv, "engine", cwd=here).code == 0
    assert (here / "engine" / "engine.json").is_file()


def test_a_link_in_the_store_is_not_delivered(here: Path) -> None:
    engine = next((here / "store" / "engine").iterdir())
    (engine / "tokenizer.json").unlink()
    (engine / "tokenizer.json").symlink_to(here / "victim")
    assert call("build", "tiny.yaml", "--store", "store", "-o", "engines", cwd=here).code == 0  # it is built again
    delivered = list((here / "engines").rglob("tokenizer.json"))
    assert len(delivered) == 2
    assert all(path.read_text().startswith("{") for path in delivered)


def test_a_pipe_in_the_folder_is_not_waited_for(here: Path) -> None:
    os.mkfifo(here / "out" / "report.html")
    done = call("report", "tiny.yaml", "--store", "store", "-o", "out", cwd=here)
    assert done.code == 1
    assert "out/report.html is no regular file" in done.stderr


@pytest.mark.parametrize("name", ["recipe.yaml", ".recipe.yaml.draft.yaml"])
def test_a_first_recipe_is_not_written_through_a_link(here: Path, name: str) -> None:
    (here / name).symlink_to(here / "new")
    checkpoint = tiny().artifact("checkpoint").path
    done = call("init", str(checkpoint), "-o", "recipe.yaml", cwd=here)
    assert done.code == 1
    assert not (here / "new").exists()
