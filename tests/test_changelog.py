"""The changelog can be written: every fragment has a type that it knows, and a release gathers them all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.command import ROOT
from toolchain import __version__

FRAGMENTS = sorted(path for path in (ROOT / "changelog.d").iterdir() if path.suffix == ".md")


def test_a_release_gathers_every_fragment() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("towncrier"), "build", "--draft", "--version", "99.0.0"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "## [99.0.0] - " in done.stdout
    missing = [path.name for path in FRAGMENTS if path.read_text("utf-8").strip() not in _unfolded(done.stdout)]
    assert missing == []


def test_a_fragment_is_named_by_its_type_and_is_a_sentence() -> None:
    for path in FRAGMENTS:
        assert re.fullmatch(r"\+[a-z0-9-]+\.(added|changed|fixed|security)\.md", path.name), path.name
        assert path.read_text("utf-8").rstrip().endswith("."), path.name


def test_the_newest_release_is_the_version_of_the_package() -> None:
    releases = re.findall(r"^## \[(\S+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert releases[0] == __version__


def _unfolded(text: str) -> str:
    """The text of list items without the indentation of their further lines."""
    return re.sub(r"\n {2}", "\n", text)
