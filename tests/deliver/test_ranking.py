from __future__ import annotations

import pytest

from tests.tiny import tiny
from toolchain.deliver import explain, ranking, training
from toolchain.pipeline import plan, recipe, run


def test_an_engine_that_misses_what_training_measured_on_dev_fails_parity() -> None:
    outcome, _ = run.preview(plan.make(recipe.load(tiny().recipe)), tiny().store)
    trained = next(step for step in outcome.plan.steps.values() if step.stage == "finetune")
    metrics = outcome.artifacts[trained.id].manifest["metrics"]
    expected = metrics["dev_accuracy"]

    def parity(engine: str) -> tuple[bool | None, str]:
        line = next(line for line in ranking.rank(outcome).lines if line.name == engine)
        verdict = next(verdict for verdict in line.gates if verdict.gate == "parity")
        return verdict.passed, verdict.evidence

    assert parity("base/onnxruntime")[0] is True
    metrics["dev_accuracy"] = expected - 3 / 16  # of 16 dev texts: 3 may differ, 4 may not
    assert parity("base/onnxruntime")[0] is True
    metrics["dev_accuracy"] = expected - 4 / 16
    passed, evidence = parity("base/onnxruntime")
    assert passed is False
    assert f"dev accuracy {100 * expected - 25:.2f} % in training, {100 * expected:.2f} % by the engine" in evidence
    assert "in training" not in parity("dynamic-int8/onnxruntime")[1]  # whose weights are others


def test_an_engine_explained_by_its_key_is_held_against_its_training_too(monkeypatch: pytest.MonkeyPatch) -> None:
    store = tiny().store
    engines = {artifact.manifest["label"]: artifact for artifact in store.artifacts([]) if artifact.kind == "engine"}

    def parity(label: str) -> tuple[bool | None, str]:
        (explained,) = explain.of_artifact(engines[label], store)
        verdict = next(verdict for verdict in explained.verdicts if verdict.gate == "parity")
        return verdict.passed, verdict.evidence

    assert parity("base · onnxruntime")[0] is True
    monkeypatch.setattr(training, "FEW", -1)
    monkeypatch.setattr(training, "POINT", -1)  # so that reaching the same accuracy is not enough
    passed, evidence = parity("base · onnxruntime")
    assert (passed, "% in training" in evidence) == (False, True)
    assert "in training" not in parity("dynamic-int8 · onnxruntime")[1]
