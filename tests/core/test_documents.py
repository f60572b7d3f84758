"""JSON and YAML of strangers: what is beyond a limit is refused in time, and nothing ends in another exception."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from toolchain.core import documents
from toolchain.core.errors import ModelError, RecipeError, ToolchainError


def _yaml(text: str, positions: bool = True) -> Any:
    return documents.parse_yaml(text, "a.yaml", RecipeError, positions=positions)


def _multiplied(levels: int, merged: bool = False) -> str:
    """Aliases that repeat ten times what repeats ten times, and so on: 10 ** levels values in a few hundred bytes."""
    lines = ["a0: &a0 {x: 1}"] if merged else ["a0: &a0 [x]"]
    for level in range(1, levels + 1):
        again = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} {{<<: [{again}]}}" if merged else f"a{level}: &a{level} [{again}]")
    return "\n".join(lines)


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_multiplied(9), "10,000 values, those that aliases repeat included"),
        (_multiplied(9, merged=True), "10,000 values, those that aliases repeat included"),
        ("a: &a [*a]", r"the alias \*a stands inside what it names"),
        ("[" * 500 + "]" * 500, "64 levels inside each other"),
        ("{a: " * 500 + "}" * 500, "64 levels inside each other"),
        ("- " * 500 + "x", "64 levels inside each other"),
        ("\n".join(f"key{number}: 1" for number in range(12_000)), "10,000 values"),
        ("a: !!int ''", "the tag .*int is not read"),
        ("a: !!float x", "the tag .*float is not read"),
        ("a: !!python/object:os.system x", "the tag .* is not read"),
        ("a: !!binary x", "the tag .* is not read"),
        ("a: 2026-13-45", "month must be in 1..12"),
        ("? [a, b]\n: c", "the name of a key"),
        ('a: "\\ud800"', "is no text"),
        ('a: "x\\0y"', "NUL"),
        ("a: ~nosuchuser/x", "there is no home folder ~nosuchuser"),
        ("a: [", "expected the node|flow"),
        ("a: *b", "undefined alias|undefined"),
        ("x" * 1_100_000, "1,048,576 bytes"),
    ],
    ids=range(19),
)
def test_a_yaml_text_beyond_a_limit_is_refused_in_time(text: str, expected: str, positions: bool) -> None:
    began = time.process_time()
    with pytest.raises(ToolchainError, match=expected) as caught:
        _yaml(text, positions)
    assert time.process_time() - began < 5
    assert len(caught.value.message) < 400


def test_aliases_and_nulls_that_recipes_need_are_read() -> None:
    value = _yaml("a: &a {epochs: 1}\nb: *a\nc: {<<: *a, rate: 2.0}\nd: ~\ne: ~/data\nf: '5'")
    assert json.loads(json.dumps({**value, "c": dict(value["c"])}, default=float)) == {
        "a": {"epochs": 1}, "b": {"epochs": 1}, "c": {"epochs": 1, "rate": 2.0}, "d": None, "e": "~/data", "f": "5",
    }  # fmt: skip


def test_a_limit_of_a_yaml_text_is_moved_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[" * 70 + "]" * 70
    with pytest.raises(RecipeError) as caught:
        _yaml(text)
    assert "TOOLCHAIN_LIMIT_NESTING (now 64" in caught.value.hint
    monkeypatch.setenv("TOOLCHAIN_LIMIT_NESTING", "80")
    assert _yaml(text)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[" * 500 + b"]" * 500, "64 levels deep"), (b'{"a":' * 100_000, "64 levels deep|not valid JSON"),
        (b"{", "not valid JSON"), (b"\xff{}", "not UTF-8"), (b'{"a": "\\ud800"}', "not UTF-8"), (b"", "not valid JSON"),
        (b"[1]", "an array, not a JSON object"), (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_json_file_beyond_a_limit_is_refused(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=expected):
        documents.read_object(path, ModelError)


def test_a_json_object_is_read_and_one_that_is_absent_is_said(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        documents.read_object(path, ModelError)
    path.write_text('{"a": ["\\ud83d\\ude00", 1.5]}', "utf-8")
    assert documents.read_object(path, ModelError) == {"a": ["\N{GRINNING FACE}", 1.5]}


def test_no_changed_byte_of_a_recipe_ends_in_another_exception() -> None:
    base = "name: a\ntask: {reviews: {size: 32}}\nvariants:\n  base: [export, {x: &q !!int '1'}]\n  b: *q\nz: [1, ~]\n"
    random.seed(24)
    errors = 0
    for _ in range(400):
        text = list(base)
        for _ in range(random.randint(1, 4)):
            text[random.randrange(len(text))] = random.choice("[]{}:,&*!|>'\"%@`~?-#\n\t \\0189ex\u2028\x85")
        for positions in (True, False):
            try:
                _yaml("".join(text), positions)
            except ToolchainError:
                errors += 1
    assert errors > 100
