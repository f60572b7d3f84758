from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import FunctionType

import pytest

from tests.command import python
from toolchain import kinds
from toolchain.core import hooks, registry
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import ModelError, RecipeError
from toolchain.kinds.contract import Kind, Metric, Output

NAMES = registry.names("kinds")


def test_a_kind_is_a_file_of_its_folder_and_the_contract_is_none() -> None:
    assert "classification" in NAMES
    assert "contract" not in NAMES
    with pytest.raises(RecipeError, match="unknown kind of task 'clasification'") as caught:
        kinds.get("clasification")
    assert caught.value.hint.startswith("did you mean 'classification'?")


def test_where_no_kind_is_named_it_is_classification(tmp_path: Path) -> None:
    classification = kinds.get("classification")
    assert str(classification) == "classification"
    assert kinds.named({"labels": ["no", "yes"]}) is classification
    assert kinds.of_folder(tmp_path) is classification
    (tmp_path / "interface.json").write_text(json.dumps({"kind": "classification"}), "utf-8")
    assert kinds.of_folder(tmp_path) is classification
    split = Split([("a",)], [0])
    assert Dataset(split, split, split, ("no", "yes")).kind == "classification"


def test_the_kind_of_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "interface.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match=r"interface\.json"):
        kinds.of_folder(tmp_path)


def test_a_folder_of_an_unknown_kind_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "interface.json").write_text(json.dumps({"kind": "tagging"}), "utf-8")
    with pytest.raises(ModelError, match=r"interface\.json: kind is 'tagging'; allowed are classification, "):
        kinds.of_folder(tmp_path)


def test_examples_that_are_taken_from_a_split_keep_their_kind() -> None:
    split = Split([("a",), ("b",)], [0.5, 1.5], kind="regression")
    assert split.take([1]) == Split([("b",)], [1.5], kind="regression")


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_defines_what_the_contract_requires_and_nothing_else_that_is_public(name: str) -> None:
    assert str(registry.get("kinds", name).of(Kind)) == name  # which checks both


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_takes_the_parameters_that_the_contract_declares(name: str) -> None:
    module = registry.get("kinds", name).module
    own = {each: value for each, value in vars(module).items() if isinstance(value, FunctionType)}
    for hook in own.keys() & hooks.names(Kind):
        declared = list(inspect.signature(getattr(Kind, hook)).parameters)[1:]
        assert list(inspect.signature(own[hook]).parameters) == declared, hook


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_has_outputs_of_rows_and_a_metric_with_a_name(name: str) -> None:
    kind = kinds.get(name)
    assert isinstance(kind.METRIC, Metric)
    assert kind.METRIC.name
    assert kind.OUTPUTS
    assert all(isinstance(output, Output) and output.axes[0] == "batch" for output in kind.OUTPUTS)


def test_an_output_of_a_graph_goes_by_its_name_or_its_place() -> None:
    kind = kinds.get("classification")
    assert kinds.places(kind, ["probabilities", "logits"]) == {"logits": 1}
    assert kinds.places(kind, ["output_0", "output_1"]) == {"logits": 0}


def test_kinds_load_numpy_alone() -> None:
    code = (
        "import sys\nfrom toolchain import kinds\nfrom toolchain.core import registry\n"
        "names = registry.names('kinds')\nassert names\n"
        "for name in names: kinds.get(name)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "numpy" in done.stdout.split()
    assert not set(done.stdout.split()) & {"torch", "transformers", "onnx", "onnxruntime", "tokenizers", "pydantic"}


@pytest.mark.parametrize("name", NAMES)
def test_hooks_that_depend_on_labels_are_those_of_the_contract(name: str) -> None:
    labels, plain = ("O", "B-x", "I-x"), kinds.get(name)
    given = plain.of_labels(labels)
    assert bool(given) == plain.DEPENDS_ON_LABELS
    for hook, function in given.items():
        declared = list(inspect.signature(getattr(Kind, hook)).parameters)[1:]
        assert list(inspect.signature(function).parameters) == declared, hook
        assert getattr(kinds.get(name, labels), hook).__code__ is function.__code__
    assert str(kinds.get(name, labels)) == name
    assert (kinds.get(name, labels) is plain) == (not plain.DEPENDS_ON_LABELS)
