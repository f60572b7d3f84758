"""What the documentation says is what the program does: pages, commands, recipes and results."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from tests.command import ROOT, python
from tests.deliver.test_report import PICTURES
from toolchain.cli import COMMANDS, cli
from toolchain.core import registry
from toolchain.pipeline import document, recipe

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
IDS = [str(path.relative_to(ROOT)) for path in PAGES]

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and why it is not run; empty when it is."""

    language: str
    text: str
    reason: str


def blocks(page: Path, language: str) -> list[Block]:
    found = _BLOCK.finditer(page.read_text("utf-8"))
    return [Block(m["language"], m["text"], m["reason"] or "") for m in found if m["language"] == language]


def commands(text: str) -> Iterator[list[str]]:
    """Every ``toolchain …`` line of a shell block; what is between here-document marks is data."""
    data = re.sub(r"<<'(\w+)'\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in data.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["toolchain"]:
            yield words[1:]


RUN = [(page, [b.text for b in blocks(page, "sh") if not b.reason]) for page in PAGES]
RUN = [(page, texts) for page, texts in RUN if texts]
NOT_RUN = [(page, block) for page in PAGES for block in blocks(page, "sh") if block.reason]
LINES = [(page, words) for page in PAGES for block in blocks(page, "sh") for words in commands(block.text)]
GENERATED: dict[str, Any] = runpy.run_path(str(ROOT / "docs/reference.py"))
PUBLISH: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/publish.py"))


@pytest.mark.slow
@pytest.mark.parametrize(("page", "texts"), RUN, ids=[str(page.relative_to(ROOT)) for page, _ in RUN])
def test_the_commands_of_a_page_run_in_its_order(
    page: Path, texts: list[str], tmp_path: Path, smoke_store: Path
) -> None:
    assert len(RUN) >= 6
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    # The store is shared so that the smoke run is made once; what a page adds to it stands under keys of its own.
    environment = {
        **os.environ, "TOOLCHAIN_STORE": str(smoke_store),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    script = "set -euo pipefail\n" + "\n".join(texts)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Traceback" not in done.stderr


def test_blocks_that_are_not_run_say_why_and_name_files_that_there_are() -> None:
    assert NOT_RUN
    for page, block in NOT_RUN:
        assert len(block.reason.split()) >= 2, f"{page.name}: {block.reason}"
        for name in re.findall(r"(?<![\w./])(?:recipes|benchmarks|docs|examples)/[\w/.-]+\.\w+", block.text):
            assert (ROOT / name).is_file(), f"{page.name} names {name}"


def test_every_command_line_in_the_documentation_parses() -> None:
    assert len(LINES) >= 30
    for page, words in LINES:
        try:
            with cli.make_context("toolchain", list(words)) as context:
                name, command, rest = cli.resolve_command(context, list(words))
                assert command is not None
                command.make_context(name, rest, parent=context)
        except click.exceptions.Exit:  # --help and its like have nothing more to parse
            continue
        except click.ClickException as error:
            pytest.fail(f"{page.name}: toolchain {shlex.join(words)}: {error.format_message()}")


def test_every_recipe_in_the_documentation_is_valid() -> None:
    texts = [(page, block.text) for page in PAGES for block in blocks(page, "yaml")]
    assert len(texts) >= 3
    for page, text in texts:
        value = document.parse_value(text)
        assert "variants" in value, f"{page.name}: a YAML block is a whole recipe; use text for anything else"
        recipe.parse(document.Document(value, None))


def test_the_table_of_keys_has_every_key_of_a_recipe() -> None:
    text = (ROOT / "docs/recipes.md").read_text("utf-8").partition("## Keys")[2].partition("##")[0]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(document.KEYS)


def test_the_generated_pages_are_what_the_code_says() -> None:
    made = GENERATED["pages"]()
    assert {path.name for path in (ROOT / "docs/reference").glob("*.md")} == set(made)
    for name, text in made.items():
        assert (ROOT / "docs/reference" / name).read_text("utf-8") == text, f"{name} is old: run make reference"


def test_making_the_pages_leaves_the_commands_their_short_help_option() -> None:
    pages = "import runpy; runpy.run_path('docs/reference.py')['pages']()"
    done = python(f"{pages}; from toolchain.cli import main; main(['run', '-h'])")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("page", "names"),
    [
        (
            "techniques.md",
            ["finetune", "export", *(name for folder in registry.variant_folders() for name in registry.names(folder))],
        ),
        ("engines.md", list(registry.names("engines"))),
        ("tasks.md", list(registry.names("tasks"))),
        ("cli.md", list(COMMANDS)),
    ],
)
def test_a_reference_page_has_what_is_on_disk_and_nothing_else(page: str, names: list[str]) -> None:
    text = (ROOT / "docs/reference" / page).read_text("utf-8")
    assert len(names) >= 2
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == names


def test_the_table_of_extras_has_every_extra() -> None:
    text = (ROOT / "README.md").read_text("utf-8").partition("| extra |")[2].partition("\n\n")[0]
    declared = (ROOT / "pyproject.toml").read_text("utf-8").partition("[project.optional-dependencies]")[2]
    extras = re.findall(r"^(\w+) = \[", declared.partition("[project.scripts]")[0], re.MULTILINE)
    assert len(extras) >= 5
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(extras)


def test_the_readmes_test_command_is_the_one_that_ci_runs() -> None:
    assert "\nmake test\n" in (ROOT / "README.md").read_text("utf-8")
    assert "make test" in (ROOT / ".ci/run").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[\w-]+)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_results_that_are_quoted_are_those_that_are_published() -> None:
    quoted = [(page, *place) for page in PUBLISH["pages"]() for place in PUBLISH["places"](page.read_text("utf-8"))]
    assert ("README.md", "quickstart") in {(page.name, name) for page, name, _ in quoted}
    for page, name, text in quoted:
        assert text == PUBLISH["published"](name), f"{page.name}: run benchmarks/publish.py"


def test_publishing_copies_the_stores_report_and_quotes_it(tmp_path: Path, smoke_store: Path) -> None:
    for name in ("toolchain", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks/publish.py").write_text((ROOT / "benchmarks/publish.py").read_text("utf-8"), "utf-8")
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- results: smoke -->\nnone\n<!-- /results -->\nafter\n", "utf-8")
    code = "import runpy, sys; sys.argv[0] = 'publish.py'; runpy.run_path('benchmarks/publish.py', run_name='__main__')"
    done = python(code, "recipes/smoke.yaml", "--store", smoke_store, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "artifacts/published/smoke"
    reports = {f"report.{kind}" for kind in ("md", "csv", "json", "html")}
    assert {path.name for path in folder.iterdir()} == reports | PICTURES
    text = page.read_text("utf-8")
    assert text.startswith("before\n<!-- results: smoke -->\n| # | engine |")
    assert text.endswith("\n<!-- /results -->\nafter\n")
    assert len(re.findall(r"^\| \d+ \|", text, re.MULTILINE)) == 3
    assert "| **base/onnxruntime** |" in text
