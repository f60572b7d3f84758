"""Every recipe that comes with the package: valid, listed, and run under the settings that it has for tests."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.command import RECIPES, ROOT
from tests.tiny import call
from toolchain.pipeline import plan
from toolchain.pipeline import recipe as recipes

NAMES = [path.name for path in RECIPES]


def overrides(path: Path) -> list[str]:
    """The ``--set`` values under which a recipe says that it can be tested; JSON is YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in recipes.load(path).test.items()]


@cache
def chosen() -> dict[str, list[str]]:
    """The variants of each recipe that are run, at least three: the first, and those that are the first of all recipes

    to do something: techniques in an order, or a technique with a word, a switch, or a number that is not zero for a
    setting. ``TOOLCHAIN_TEST_VARIANTS=all`` runs every variant.
    """
    seen: set[object] = set()
    variants = {}
    for path in RECIPES:
        recipe = recipes.load(path, overrides(path))
        engines = tuple(engine.technique.name for engine in recipe.engines)
        names, runs = ["/".join(key if len(recipe.models) > 1 else key[1:]) for key in recipe.variants], []
        for name, items in zip(names, recipe.variants.values(), strict=True):
            does: set[object] = {(engines, tuple(item.technique.name for item in items))}
            does |= {(engines, fact) for item in items for fact in facts(item.config, item.technique.name)}
            if not does <= seen or name == names[0] or os.environ.get("TOOLCHAIN_TEST_VARIANTS") == "all":
                runs.append(name)
            seen |= does
        variants[path.name] = [*runs, *[name for name in names if name not in runs][: max(3 - len(runs), 0)]]
    return variants


def facts(config: Any, technique: str) -> Iterator[tuple[object, ...]]:
    """What is set, by its path: words and switches as they are, numbers by whether they are zero."""
    nodes: list[tuple[tuple[object, ...], Any]] = [((technique,), dataclasses.asdict(config))]
    for path, value in nodes:
        if isinstance(value, dict):
            nodes += [((*path, key), each) for key, each in value.items()]
        else:
            yield (*path, value if isinstance(value, str | bool | None) else bool(value))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all of them and for every process that tests: what recipes have in common is made once."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "recipes-store"


def test_there_are_recipes() -> None:
    assert {"quickstart.yaml", "smoke.yaml", "sst2-ptq.yaml"} <= set(NAMES)


def test_every_recipe_is_valid_but_for_the_data_that_its_reader_makes(tmp_path: Path) -> None:
    done = call("validate", *map(str, RECIPES), "--json", cwd=tmp_path)
    problems = {Path(found["recipe"]).name: found.get("problems", []) for found in done.json}
    assert len(problems) == len(NAMES)
    (missing,) = problems.pop("packages.yaml")
    assert "task.files: packages-train.csv: no such file" in missing
    assert not any(problems.values()), problems


def test_the_folders_readme_lists_every_recipe_and_no_other() -> None:
    listed = re.findall(r"^## `([\w-]+\.yaml)`", (ROOT / "recipes/README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == NAMES


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_every_recipe_is_named_as_its_file_and_says_what_it_is_for(path: Path) -> None:
    assert recipes.load(path).name == path.stem
    assert re.match(r"# \S.{20,}", path.read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_every_recipe_runs_under_its_override_and_then_is_all_hits(
    path: Path, store: Path, request: pytest.FixtureRequest
) -> None:
    sets = overrides(path)
    recipe, variants = recipes.load(path, sets), chosen()[path.name]
    planned = plan.make(recipe, only=variants)
    if any(engine.technique.name == "tensorrt" for engine in planned.recipe.engines):
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    # smoke.yaml is small as it stands, and others need its store: it is run once for all of them.
    kept = store if sets else request.getfixturevalue("smoke_store")
    command = ["run", str(path), "--store", str(kept), *(text for value in sets for text in ("--set", value)), "--json"]
    if len(variants) < len(recipe.variants):
        command += [text for name in variants for text in ("--variant", name)]
    first = call(*command, cwd=ROOT)
    assert first.code == 0, first.stderr
    report = first.json
    expected = {(row.model, row.seed, row.variant, row.engine) for row in planned.rows}
    assert len(expected) >= 3
    lines = report["lines"]
    assert {(line["model"], line["seed"], line["variant"], line["engine"]) for line in lines} == expected
    assert [line["name"] for line in lines if line["error"]] == []
    assert report["failed"] == []
    assert sum(line["baseline"] for line in lines) == len({row.model for row in planned.rows})
    ranks = [line["rank"] for line in lines if line["rank"] is not None]
    assert ranks == list(range(1, len(ranks) + 1))
    assert [line["rank"] is None for line in lines] == [bool(line["barred"]) for line in lines]
    refused = {item["name"] for item in report["not_applicable"]}
    built = {item["name"] for item in report["not_run"]}
    assert len(built) == len(planned.not_run)
    assert len(expected) + len(refused) + len(built) == len(planned.only or recipe.variants) * len(recipe.engines)

    second = call(*command, cwd=ROOT)
    assert second.code == 0, second.stderr
    assert f"0 steps run, {len(planned.steps)} from the store" in second.stderr
    assert second.json == report
