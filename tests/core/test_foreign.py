"""What strangers wrote, as terminals, Markdown and spreadsheets get it."""

from __future__ import annotations

import ast
import io
import json
import logging
from pathlib import Path

import pytest
from rich.table import Table

from tests.command import ROOT
from tests.tiny import call
from toolchain.core import foreign, log
from toolchain.core.terminal import Terminal

ATTACKS = {
    "\x1b]0;owned\x07": "\\x1b]0;owned\\x07",
    "\x9b2J": "\\x9b2J",
    "a\u202egpj.exe": "a\\u202egpj.exe",
    "a\rb": "a\\rb",
    "a\r\nb\tc": "a\nb\tc",
    "\ud800": "\\ud800",
    "été ±": "été ±",
}


@pytest.mark.parametrize(("text", "expected"), ATTACKS.items(), ids=map(ascii, ATTACKS))
def test_characters_that_are_not_seen_are_written_out(text: str, expected: str) -> None:
    assert foreign.shown(text) == expected


def test_a_long_text_loses_its_middle() -> None:
    assert foreign.shown("a" * 50 + "b" * 50, most=20) == "a" * 13 + "…" + "b" * 6


@pytest.mark.parametrize("text", ATTACKS, ids=map(ascii, ATTACKS))
def test_a_table_takes_no_text_as_markup_or_control(text: str) -> None:
    file = io.StringIO()
    table = Table("name")
    table.add_row(f"{text}[/b][bold]x")
    Terminal(file=file, width=60, force_terminal=True, color_system=None).print(table, f"[red]{text}")
    assert "[/b][bold]x" in file.getvalue()
    assert "[red]" in file.getvalue()
    assert not set(file.getvalue()) & set("\x1b\x07\x9b\r\u202e\ud800")


def test_the_log_shows_control_characters() -> None:
    before = log.logger.handlers[:]
    log.setup(0)
    try:
        record = logging.LogRecord("toolchain", logging.INFO, "", 0, "label %s", ("\x1b[2J",), None)
        assert log.logger.handlers[0].format(record) == "label \\x1b[2J"
    finally:
        log.logger.handlers[:] = before


def test_an_error_shows_control_characters(tmp_path: Path) -> None:
    result = call("validate", "a\x1b[2J.yaml", cwd=tmp_path)
    assert result.code == 1
    assert "\x1b" not in result.stderr
    assert "\\x1b[2J.yaml" in result.stderr


def test_json_of_odd_texts_is_the_same_value_without_odd_characters() -> None:
    value = {"a\u202e": "\x9b\x7f\u2028"}
    text = foreign.json_text(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert text.isascii()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<img src=x>", "&lt;img src=x>"),
        ("</b><!-- x -->", "&lt;/b>&lt;!-- x -->"),
        ("![a](http://x)", "![a]\\(http://x)"),
        ("< 0.001 [1.0, 2.0]", "< 0.001 [1.0, 2.0]"),
    ],
)
def test_markdown_has_no_elements_links_or_pictures(text: str, expected: str) -> None:
    assert foreign.markdown(text) == expected


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1"])
def test_a_cell_is_no_formula(text: str) -> None:
    assert str(foreign.cell(text)).startswith("'")


@pytest.mark.parametrize("value", [-1.5, "-", None, True, "base/onnxruntime"])
def test_figures_and_names_stay(value: object) -> None:
    assert foreign.cell(value) == value


def test_commands_print_through_the_functions_that_show_foreign_text() -> None:
    printing = ("click.echo", "click.secho", "Console", "print")
    calls = [
        f"{path.relative_to(ROOT / 'toolchain')}: {ast.unparse(node)[:60]}"
        for path in sorted((ROOT / "toolchain").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in printing
    ]
    ours = ("cli/options.py", "cli/ending.py")
    allowed = [each for each in calls if each.startswith(ours) or "_child.py" in each or "completion(cli, {}" in each]
    assert len(allowed) > 3
    assert calls == allowed
