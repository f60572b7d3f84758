from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest

from tests.builders import LABELS, SENTENCES, context
from tests.optimize.variants import FAMILIES, difference, exported, save, sentence_logits
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import ModelError, RecipeError
from toolchain.model import graph
from toolchain.optimize import mixed, static_int8
from toolchain.optimize.mixed.trials import Journal, OutOfTime, Trial, best, search
from toolchain.optimize.shared import int8
from toolchain.optimize.shared.groups import group_nodes

GROUPS = ("embeddings", "layer 0 attention", "layer 0 ffn", "layer 1 attention", "layer 1 ffn", "classifier")
QUICK = {"smooth": 0.0, "correct_biases": False, "calibration_samples": 16, "samples": 8, "rounds": 3}

#: Whether each group of a made-up model breaks it as int8, and the time it then saves.
Costs = dict[str, tuple[float, float]]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT whose second FFN holds one value of 10,000 that nothing reads: as int8 it leaves nothing of the others.

    The classifier is biased so that a sentence changes its label when that FFN gives nothing.
    """
    folder = tmp_path_factory.mktemp("planted")
    for name in ("tokenizer.json", "interface.json"):
        for target in (folder, folder / "without"):
            target.mkdir(exist_ok=True)
            (target / name).write_bytes((exported("bert") / name).read_bytes())
    model = graph.load(exported("bert") / "model.onnx")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in tensors]
    up = [n for n in products if list(tensors[n.input[1]].dims) == [64, 128]][-1]
    down = [n for n in products if list(tensors[n.input[1]].dims) == [128, 64]][-1]
    added = next(n for n in model.graph.node if n.op_type == "Add" and up.output[0] in n.input)
    index = next(index for index, name in enumerate(added.input) if name in tensors)
    bias = model.graph.initializer.add()
    bias.CopyFrom(tensors[added.input[index]])  # a copy: layers whose biases are equal may share one
    bias.name = added.input[index] = "planted.bias"
    read = np.array(onnx.numpy_helper.to_array(tensors[down.input[1]]))

    def change(tensor: Any, values: Any) -> None:
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    def margins(weights: Any) -> Any:
        change(tensors[down.input[1]], weights)
        found = sentence_logits(save(folder, model))
        return found[:, 1] - found[:, 0]

    both = np.stack([margins(np.zeros_like(read)), margins(read)])
    middle = both[:, np.abs(both[0] - both[1]).argmax()].mean()
    classifier = model.graph.node[-1]
    assert len(classifier.input) == 2  # a bias of zeros is not exported
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([middle, 0], np.float32), "planted.middle"))
    classifier.input.append("planted.middle")

    read[0] = 0
    change(tensors[down.input[1]], read)
    save(folder / "without", model)
    values = np.array(onnx.numpy_helper.to_array(bias))
    values[0] = 1e4
    change(bias, values)
    return save(folder, model)


def labelled(source: Path) -> Dataset:
    """Sentences that a float graph labels rightly, all of them."""
    labels = sentence_logits(source).argmax(axis=1).tolist()
    split = Split([(text,) for text in SENTENCES], labels)
    return Dataset(split, split, split, LABELS)


def run(source: Path, tmp_path: Path, **settings: Any) -> dict[str, Any]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    (tmp_path / "work").mkdir(exist_ok=True)
    config = mixed.Config(**{**QUICK, **settings})
    return mixed.apply(source, out, config, context(tmp_path / "work", labelled(source)))


@pytest.mark.parametrize("architecture", FAMILIES)
def test_nodes_are_grouped_by_layer_and_kind_and_shared_weights_stay_together(architecture: str) -> None:
    model = int8.replace_gemm(int8.load_float(exported(architecture) / "model.onnx"))
    excluded = int8.excluded_nodes(model, (), embeddings=True, attention=True)
    names = {n.name for n in model.graph.node if n.op_type in ("MatMul", "Gather")} - set(excluded)
    found = {group: len(nodes) for group, nodes in group_nodes(model, names).items()}
    if architecture == "albert":  # the projection of the embeddings stands before the first attention's products
        assert found == {
            "embeddings": 3, "layers 0-1 attention": 9, "layer 0 products": 2, "layers 0-1 ffn": 4,
            "layer 1 products": 2, "classifier": 2,
        }  # fmt: skip
        return
    per_layer = {"attention": 4, "products": 2, "ffn": 2}
    layers = {f"layer {layer} {kind}": count for layer in (0, 1) for kind, count in per_layer.items()}
    assert found == {"embeddings": 3, **layers, "classifier": 2}


def test_in_a_graph_whose_layers_cannot_be_told_each_matrix_is_a_group() -> None:
    model = int8.replace_gemm(int8.load_float(exported("bert") / "model.onnx"))
    excluded = int8.excluded_nodes(model, (), embeddings=False)
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            node.domain, node.op_type = "elsewhere", "Norm"
    names = {n.name for n in model.graph.node if n.op_type == "MatMul"} - set(excluded)
    found = group_nodes(model, names)
    assert len(found) == len(names) == 14
    assert all(nodes == (group,) for group, nodes in found.items())


def test_a_planted_outlier_stays_in_float_and_the_accuracy_is_held(planted: Path, tmp_path: Path) -> None:
    assert difference(planted / "without", planted) < 1e-4  # the outlier changes nothing in float
    found = run(planted, tmp_path, max_drop=0.0)
    assert tuple(found["groups"]) == GROUPS
    assert found["groups"]["layer 1 ffn"] == "float"
    assert found["finished"]
    assert found["dev_accuracy"] == found["float_dev_accuracy"] == 100
    trials = {frozenset(trial["floats"]): trial for trial in found["trials"]}
    assert trials[frozenset()]["accuracy"] < 1
    alone = {group: trials[frozenset(GROUPS) - {group}]["error"] for group in GROUPS}
    assert max(alone, key=alone.__getitem__) == "layer 1 ffn"
    # Without VNNI the others lose some too: their products saturate.
    assert alone["layer 1 ffn"] > 3 * sorted(alone.values())[-2]
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["journal.jsonl", "ranges.json"]


def test_accuracy_is_counted_in_the_order_of_the_models_own_labels(tmp_path: Path) -> None:
    source = exported("bert")
    right = labelled(source)
    dev = Split(right.dev.texts, [1 - label for label in right.dev.labels])
    turned = replace(right, dev=dev, labels=tuple(reversed(LABELS)))
    bench = mixed._Bench(source, mixed.Config(samples=1, rounds=3), context(tmp_path, turned), "qdq")
    assert bench.measure(frozenset(bench.groups)).accuracy == 1  # the float graph, by whose labels dev is labelled


def test_a_model_of_other_labels_is_refused_before_any_trial(tmp_path: Path) -> None:
    data = replace(labelled(exported("bert")), labels=("bad", "good"))
    with pytest.raises(ModelError, match="negative, positive; the task has bad, good"):
        mixed.apply(exported("bert"), tmp_path, mixed.Config(), context(tmp_path / "work", data))


def test_ranges_are_chosen_as_by_static_int8() -> None:
    static, ours = static_int8.Config(), mixed.Config().static
    assert static == ours


def test_with_every_group_int8_it_writes_what_static_int8_writes(tmp_path: Path) -> None:
    source, given = exported("bert"), context(tmp_path, labelled(exported("bert")))
    bench = mixed._Bench(source, mixed.Config(calibration_samples=16), given, "qdq")
    bench.write(frozenset(bench.groups), tmp_path / "float.onnx")
    bench.write(frozenset({"layer 0 ffn"}), tmp_path / "first.onnx")  # measured once, whatever is written first
    bench.write(frozenset(), tmp_path / "all.onnx")
    static_int8.apply(source, tmp_path, static_int8.Config(calibration_samples=16), given)
    ours, theirs = (graph.load(tmp_path / name).graph for name in ("all.onnx", "model.onnx"))
    tensors = [sorted(one.initializer, key=lambda tensor: tensor.name) for one in (ours, theirs)]
    assert tensors[0] == tensors[1]
    assert sum(".smoothing" in tensor.name for tensor in tensors[0]) > 0
    assert list(ours.node) == list(theirs.node)


@pytest.mark.parametrize(("quantization", "dialect"), [("static", "qdq"), ("dynamic", "ort")])
def test_what_is_written_has_the_named_groups_in_float_and_the_dialect_promised(
    quantization: Literal["static", "dynamic"], dialect: str, tmp_path: Path
) -> None:
    source, config = exported("bert"), mixed.Config(quantization=quantization, calibration_samples=16)
    bench = mixed._Bench(source, config, context(tmp_path, labelled(source)), dialect)
    assert tuple(bench.groups) == GROUPS
    bench.write(frozenset({"layer 0 ffn", "classifier"}), tmp_path / "model.onnx")
    written = graph.load(tmp_path / "model.onnx")
    assert graph.dialect(written) == mixed.gives(config, "standard") == dialect
    # Three tables, and of two layers four matrices of attention each and one FFN of two.
    assert int8.report(written)["int8_weights"] == 3 + 4 + 4 + 2
    floats = {tensor.name: tuple(tensor.dims) for tensor in written.graph.initializer if tensor.data_type == 1}
    products = [node for node in written.graph.node if node.op_type == "MatMul" and node.input[1] in floats]
    assert [floats[node.input[1]] for node in products] == [(64, 128), (128, 64), (64, 64), (64, 2)]


def test_a_deadline_of_nothing_gives_the_float_graph(tmp_path: Path) -> None:
    found = run(exported("bert"), tmp_path, deadline=0)
    assert set(found["groups"].values()) == {"float"}
    assert not found["finished"]
    assert found["trials"] == []
    assert "time" not in found
    assert difference(exported("bert"), tmp_path / "out") == 0


def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = mixed._Bench.measure
    done: list[Trial] = []

    def interrupted(bench: Any, floats: Any) -> Trial:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(measure(bench, floats))
        return done[-1]

    monkeypatch.setattr(mixed._Bench, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(exported("bert"), tmp_path, margin=1)
    journal = tmp_path / "work" / "journal.jsonl"
    kept = journal.read_text().splitlines()
    assert [json.loads(line) for line in kept] == [trial.record() | {"floats": list(trial.floats)} for trial in done]
    journal.write_text("\n".join(kept) + '\n{"floats": ["emb')  # as a kill leaves it
    (tmp_path / "work" / "trial-left").mkdir()
    again: list[Any] = []

    def counted(bench: Any, floats: Any) -> Trial:
        again.append(floats)
        return measure(bench, floats)

    monkeypatch.setattr(mixed._Bench, "measure", counted)
    found = run(exported("bert"), tmp_path, margin=1)
    assert found["finished"]
    assert [trial["seconds"] for trial in found["trials"][:3]] == [trial.seconds for trial in done]
    assert len(again) == len(found["trials"]) - 3
    assert not list((tmp_path / "work").glob("trial-*"))


def test_an_engine_that_does_not_take_the_result_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"dialect ort, and openvino takes"):
        run(exported("bert"), tmp_path, engine="openvino", quantization="dynamic")


def test_a_graph_with_nothing_left_to_quantize_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no matrix product that may be int8"):
        run(exported("bert"), tmp_path, exclude=("*",))


def made_up(costs: Costs) -> tuple[Callable[[Collection[str]], Trial], list[frozenset[str]]]:
    """A model whose int8 groups each cost accuracy and save time, and the order in which it is tried."""
    tried: list[frozenset[str]] = []

    def trial(floats: Collection[str]) -> Trial:
        narrow = set(costs) - set(floats)
        if frozenset(floats) not in tried:
            tried.append(frozenset(floats))
        lost, saved = (sum(costs[group][k] for group in narrow) for k in (0, 1))
        return Trial(
            tuple(sorted(floats)),
            accuracy=1 - lost,
            time=1 - saved,
            error=lost,
            size_bytes=100 - len(narrow),
            seconds=1,
        )

    return trial, tried


def chosen(costs: Costs, max_drop: float) -> tuple[set[str], int]:
    """The groups that end in int8, and how many trials that took."""
    trial, tried = made_up(costs)
    search(tuple(costs), trial, max_drop, 0.005)
    found = best([trial(floats) for floats in tried], frozenset(costs), max_drop, 0.005)
    assert found is not None
    return set(costs) - set(found.floats), len(tried)


def test_groups_are_taken_by_error_per_time_as_many_as_hold_the_accuracy() -> None:
    costs = {f"group {index:02d}": (0.001 * index, 0.03) for index in range(16)}
    # 0 + 1 + 2 + 3 + 4 = 10 thousandths fit into 12, and 5 more do not.
    found, trials = chosen(costs, 0.012)
    assert found == {f"group {index:02d}" for index in range(5)}
    assert trials <= 2 + 16 + 4 + 11


def test_a_group_that_is_slower_in_int8_stays_float_however_exact_it_is() -> None:
    found, _ = chosen({"slow": (0.0, -0.1), "quick": (0.001, 0.2), "harmful": (0.3, 0.2)}, 0.01)
    assert found == {"quick"}


def test_where_no_choice_holds_the_accuracy_the_float_graph_is_taken() -> None:
    assert chosen({"one": (0.2, 0.3), "two": (0.3, 0.3)}, 0.01)[0] == set()


def test_choices_of_equal_time_are_told_apart_by_their_bytes() -> None:
    assert chosen({"tables": (0.0, 0.0), "layers": (0.0, 0.3)}, 0.01)[0] == {"tables", "layers"}


def test_the_deadline_ends_a_search_with_the_best_so_far(tmp_path: Path) -> None:
    costs = {f"group {index}": (0.004, 0.05) for index in range(6)}
    trial, _ = made_up(costs)
    journal = Journal(tmp_path, 5.0, trial)
    with pytest.raises(OutOfTime):
        search(tuple(costs), journal, 0.01, 0.01)
    assert len(journal.trials) == 4  # a fifth would end at the deadline
    found = best(journal.trials, frozenset(costs), 0.01, 0.01)
    assert found is not None
    assert len(found.floats) == 5  # everything in int8 loses too much, one group alone does not
    again = Journal(tmp_path, 60.0, trial)
    assert again.trials == journal.trials
    search(tuple(costs), again, 0.01, 0.01)
    assert again.trials[:4] == journal.trials


def test_a_failed_trial_is_kept_and_never_chosen(tmp_path: Path) -> None:
    fine = Trial(("a", "b"), accuracy=0.9, time=1.0, error=0.0, size_bytes=10, seconds=1)
    failed = Trial((), seconds=1, failed="the engine has no kernel")
    tried = {frozenset(fine.floats): fine, frozenset(): failed}
    journal = Journal(tmp_path, 100, tried.__getitem__)
    for trial in (fine, failed):
        journal(trial.floats)
    assert Journal(tmp_path, 100, tried.__getitem__).trials == [fine, replace(failed)]
    assert best(journal.trials, frozenset("ab"), 1.0, 0.5) == fine
