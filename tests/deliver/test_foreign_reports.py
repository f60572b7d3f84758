"""Reports of strangers: typed when read, escaped when shown, and nothing in them runs."""

from __future__ import annotations

import ast
import copy
import functools
import json
import re
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT
from toolchain.core.errors import StoreError
from toolchain.deliver import report as reports
from toolchain.deliver.report import compare_text, kept
from toolchain.deliver.report.page import comparison
from toolchain.deliver.report.page.document import html, pictures
from toolchain.deliver.report.scenarios import scenarios

HOSTILE = "\"'></script></title><img src=x onerror=alert(1)>"
PUBLISHED = sorted((ROOT / "artifacts/published").glob("*/report.json"))


def small_report() -> dict[str, Any]:
    """Two engines of a real report, with every part that a report may have."""
    report: dict[str, Any] = json.loads(Path(__file__).with_name("six_engines.json").read_text("utf-8"))
    report["lines"] = report["lines"][:2]
    report["settings"] = {"threads": 2, "rounds": 3, "sample": 8, "seed": 17}
    report["scenarios"] = scenarios(report["lines"])
    report["not_applicable"] = [{"name": "a", "reason": "b"}]
    report["not_run"] = [{"name": "a", "reason": "b"}]
    report["failed"] = [{"name": "a", "error": "b"}]
    report["made"] = {"command": "toolchain run r.yaml", "versions": {"numpy": "1"}, "commit": "0", "platform": "p"}
    report["winner"] = {"name": "a", "tied": ["b"], "share": 0.5}
    report["fronts"] = [{"model": "m", "seed": 17, "engines": ["a"]}]
    report["notes"] = ["a note"]
    groups = [{"low": 1, "high": 9, "examples": 4}, {"low": 10, "high": 30, "examples": 4}]
    cells = [{"accuracy_percent": 90.0, "latency_ms": 1.0}, {"accuracy_percent": 80.0, "latency_ms": 2.0}]
    report["lengths"] = {"of": "test", "groups": groups, "engines": [cells, cells]}
    for line in report["lines"]:
        line["gates"] = [{"gate": "parity", "passed": False, "evidence": "e", "reason": "r", "label": False}]
        line["techniques"] = line.get("techniques", [])
    return report


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a tree; of lists only the first item."""
    for key in value if isinstance(value, dict) else range(min(1, len(value))) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(value[key], (*at, key))


def value_at(value: Any, place: tuple[Any, ...]) -> Any:
    """What stands at a place of a tree."""
    return functools.reduce(lambda each, part: each[part], place, value)


def put(report: dict[str, Any], place: tuple[Any, ...], *, as_key: bool) -> dict[str, Any]:
    """A copy of a report with markup as the value at a place, or beside it as a key."""
    report = copy.deepcopy(report)
    parent = value_at(report, place[:-1])
    if as_key:
        parent[f"{HOSTILE}{place[-1]}"] = parent[place[-1]]
    else:
        parent[place[-1]] = f"{HOSTILE}{'.'.join(map(str, place))}"
    return report


class Elements(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_markup_in_any_value_or_key_is_refused_or_shown_as_text(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    good = hostile = small_report()
    refused, put_in = [], []
    for place in places(good):
        for as_key in (False, *([True] if isinstance(place[-1], str) else [])):
            changed = put(good, place, as_key=as_key)
            file.write_text(json.dumps(changed), "utf-8")
            try:
                kept.read(file)
            except StoreError as error:
                refused.append(error.message)
            else:
                if as_key or not isinstance(value_at(good, place), (dict, list)):
                    put_in.append(place)
                    hostile = put(hostile, place, as_key=as_key)
    assert len(put_in) > 40
    assert len(refused) > 100
    assert max(map(len, refused)) < 1000
    compared = reports.compare([hostile], [HOSTILE])
    texts = [html(hostile), comparison.html(compared), *pictures(hostile).values()]
    assert sum(text.count("&lt;img src=x") for text in texts) > 40
    for text in texts:
        elements = Elements(text).seen
        assert not [tag for tag, attributes in elements if tag == "img" or "onerror" in attributes]
        assert sum(tag == "script" for tag, _ in elements) in (0, 2)
    assert "<img" not in compare_text.markdown(compared)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_reports_of_every_version_are_read(path: Path) -> None:
    report = json.loads(path.read_text("utf-8"))
    report.pop("seal", None)  # it is compared, and tells of the file alone
    assert kept.read(path) == report


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("split", 5, "split: Input should be a valid string"),
        ("lines", {}, "lines: Input should be a valid list"),
        ("notes", 0.5, "notes: Input should be a valid list"),
        ("machine", [], "machine"),
        ("lengths", {"of": "test", "groups": [], "engines": []}, "0 engines, and the report has 2"),
    ],
)
def test_a_report_of_other_types_is_refused_by_place(tmp_path: Path, place: str, value: Any, says: str) -> None:
    (tmp_path / "report.json").write_text(json.dumps({**small_report(), place: value}), "utf-8")
    with pytest.raises(StoreError, match=re.escape(says)):
        kept.read(tmp_path)


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("latency_engine_p50_ms", -1.0),
        ("speedup_batch_1", "2"),
        ("accuracy_percent", 1e9),
        ("accuracy_percent_low", None),
    ],
)
def test_figures_that_nothing_can_measure_are_refused(tmp_path: Path, figure: str, value: object) -> None:
    report = small_report()
    report["lines"][0][figure] = value
    (tmp_path / "report.json").write_text(json.dumps(report), "utf-8")
    with pytest.raises(StoreError, match=figure):
        kept.read(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": NaN}', "[]", "", "\ufeff{}"])
def test_what_is_no_report_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text, "utf-8")
    with pytest.raises(StoreError, match="cannot be read as a report"):
        kept.read(tmp_path)


def test_the_policy_of_the_page_allows_its_own_style_and_script_alone() -> None:
    text = html(small_report())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    allowed = policy[1].replace("&#39;", "'")
    for kind, body in (("style", r"<style>(.*?)</style>"), ("script", r"<script>(.*?)</script>")):
        match = re.search(body, text, re.DOTALL)
        assert match
        digest = b64encode(sha256(match[1].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in allowed
    assert allowed.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in allowed


def test_markup_is_made_by_templates_of_constants_alone() -> None:
    folder = ROOT / "toolchain/deliver/report/page"
    trees = {path.name: ast.parse(path.read_text("utf-8")) for path in sorted(folder.glob("*.py"))}
    assert len(trees) > 10
    made = 0
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                constants = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
                assert not re.search(r"<[a-z/]", constants), f"{name}:{node.lineno}: an f-string makes markup"
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") in ("fill", "Markup")
                and name != "markup.py"
            ):
                made += 1
                first = node.args[0]
                ours = ast.unparse(first) == "standalone()" or (name == "document.py" and "u003c" in ast.unparse(first))
                named = isinstance(first, ast.Name) and any(
                    isinstance(other, ast.Assign)
                    and ast.unparse(other.targets[0]) == first.id
                    and isinstance(other.value, ast.Constant)
                    for other in ast.walk(tree)
                )
                assert isinstance(first, ast.Constant) or named or ours, f"{name}:{node.lineno}"
    assert made > 50
