"""The stages: each is one file, and nothing outside of these files knows them by name."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import toolchain
from tests.tiny import tiny
from toolchain.core import registry
from toolchain.core.store import Store

HOME = registry.PACKAGE / registry.STAGES

#: A stage that nobody has thought of: it stands between compression and export, and is done in one way.
TOY = '''"""Doubles the weights of the classifier, which changes no label."""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.core.stage import Metrics, Stage, StageConfig
from toolchain.model import checkpoint
from toolchain.pipeline.history import carry_on
from toolchain.pipeline.work import Work

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the doubling."""

    #: Times that it is done.
    times: int = 1


def _perform(work: Work) -> Metrics:
    parent = work.parent.path
    model, tokenizer = checkpoint.load_model(parent), checkpoint.load_tokenizer(parent)
    for parameter in model.classifier.parameters():
        parameter.data *= 2**work.step.config.times
    checkpoint.save_like(model, tokenizer, parent, work.out)
    carry_on(work.parent, work.step, work.more, work.out)
    return {"doubled": work.step.config.times}


STAGE = Stage(
    name="double", order=45, takes="checkpoint", gives="checkpoint", module="pipeline.stages.double", variant=True,
    once=True, perform=_perform,
)
'''


def test_every_stage_takes_what_one_before_it_gives() -> None:
    stages = list(registry.stages().values())
    assert [stage.name for stage in stages] == [
        "adopt", "finetune", "augment", "compress", "export", "optimize", "build", "evaluate", "time", "sensitivity",
        "teach",
    ]  # fmt: skip
    given = {"source"}
    for stage in stages:
        assert stage.takes in given, stage.name
        given.add(stage.gives)
    assert len({stage.order for stage in stages}) == len(stages)


@pytest.mark.parametrize("name", registry.names(registry.STAGES))
def test_a_stage_is_called_as_its_file_and_is_done_by_techniques_or_in_one_way(name: str) -> None:
    stage = registry.stages()[name]
    assert stage.name == name
    assert bool(stage.folder) != bool(stage.module)
    assert stage.folder in ("", *registry.FOLDERS)


def compared(tree: ast.AST) -> Iterator[ast.Compare]:
    """Comparisons of what is called a stage with the name of one."""
    names = set(registry.stages())
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            texts = {each.value for side in sides for each in ast.walk(side) if isinstance(each, ast.Constant)}
            shown = [ast.unparse(side) for side in sides]
            if texts & names and any(
                side.endswith(("stage", "stage']", "stage')", "stages", "until")) for side in shown
            ):
                yield node


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("step.stage == 'time'", 1),
        ("stage in ('finetune', 'compress')", 1),
        ("'export' != parts['stage']", 1),
        ("parts.get('stage') == 'export'", 1),
        ("step.does.trains and step.kind == 'engine'", 0),
        ("stage == 'nothing'", 0),
    ],
)
def test_what_counts_as_comparing_a_name(code: str, count: int) -> None:
    assert len(list(compared(ast.parse(code)))) == count


def test_nothing_compares_the_name_of_a_stage() -> None:
    modules = [path for path in registry.PACKAGE.rglob("*.py") if HOME not in path.parents]
    assert len(modules) > 200
    assert [
        f"{path.relative_to(registry.PACKAGE)}:{node.lineno}"
        for path in modules
        for node in compared(ast.parse(path.read_text("utf-8")))
    ] == []


def test_a_stage_is_added_by_its_file_alone(tmp_path: Path) -> None:
    shutil.copytree(registry.PACKAGE, tmp_path / "toolchain", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "toolchain" / registry.STAGES / "double.py").write_text(TOY, "utf-8")
    store = Store(tiny().copy(tmp_path))

    def command(*arguments: str) -> str:
        variant = "variants.toy=[{double: {times: 2}}, export]"
        done = toolchain(*arguments, "--set", variant, "--store", store.root, "--json", folder=tmp_path, path=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    lines = json.loads(command("run", "tiny.yaml", "--variant", "toy"))["lines"]
    (toy,) = [line for line in lines if line["variant"] == "toy"]
    assert (toy["techniques"], toy["gates"][0]["passed"]) == (["finetune", "double", "export"], True)
    (artifact,) = [each for each in store.artifacts() if each.manifest["parts"]["stage"] == "double"]
    assert (artifact.kind, artifact.metrics["doubled"], artifact.manifest["parts"]["config"]) == (
        "checkpoint", 2, {"times": 2},
    )  # fmt: skip
    status = {step["stage"]: step["status"] for step in json.loads(command("run", "tiny.yaml", "--dry-run"))["steps"]}
    assert status["double"] == "hit"
    wrong = toolchain("validate", "tiny.yaml", "--set", "variants.toy=[export, double]", folder=tmp_path, path=tmp_path)
    assert "double cannot come after export" in wrong.stderr
    assert "adopt → finetune → compress → double → export → optimize" in wrong.stderr
