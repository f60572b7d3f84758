from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.builders import checkpoint_folder, classifier_folder, context, engine_folder, weights
from tests.command import python
from toolchain.core.errors import ModelError, RecipeError
from toolchain.deliver import health
from toolchain.model import adopt, checkpoint, finetune, heads, source
from toolchain.model.checkpoint import read_json, write_json
from toolchain.model.folder import check_folder
from toolchain.pipeline import recipe
from toolchain.runtime.predictor import Predictor

#: What a config.json says → what the model is for. The last four have a class that says less than their settings do.
HEADS: dict[str, tuple[dict[str, Any], str]] = {
    "tagger": ({"architectures": ["ModernBertForTokenClassification"]}, "token classification"),
    "answers": ({"architectures": ["RobertaForQuestionAnswering"]}, "question answering"),
    "masked": ({"architectures": ["BertForMaskedLM"]}, "masked language modelling"),
    "choice": ({"architectures": ["BertForMultipleChoice"]}, "multiple choice"),
    "next": ({"architectures": ["BertForNextSentencePrediction"]}, "next-sentence prediction"),
    "causal": ({"architectures": ["GPT2LMHeadModel"]}, "language modelling"),
    "embedding": ({"architectures": ["BertModel"]}, "embeddings"),
    "picture": ({"architectures": ["ViTForImageClassification"]}, "image classification"),
    "other": ({"architectures": ["SomethingNew"]}, "an unknown purpose"),
    "regression": (
        {"architectures": ["BertForSequenceClassification"], "problem_type": "regression", "id2label": {"0": "score"}},
        "regression",
    ),
    "reranker": (
        {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
        "regression or cross-encoder scores",
    ),
    "multi-label": (
        {"architectures": ["BertForSequenceClassification"], "problem_type": "multi_label_classification"},
        "multi-label classification",
    ),
    "sigmoid": (
        {"architectures": ["BertForSequenceClassification"], "function_to_apply": "sigmoid"},
        "multi-label classification",
    ),
}


def folder_of(path: Path, config: dict[str, Any]) -> Path:
    """A model folder with that config and no weights to speak of."""
    path.mkdir(parents=True, exist_ok=True)
    weights(path / "model.safetensors")
    write_json(path / "config.json", {"model_type": "bert", **config})
    return path


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_another_kind_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    config, kind = HEADS[name]
    folder = folder_of(tmp_path / name, config)
    assert heads.read(folder).kind == kind
    with pytest.raises(ModelError, match=rf"is a model for {kind} \(.*only single-label classification is served"):
        heads.check(folder)


def test_a_classifier_of_several_labels_is_served(tmp_path: Path) -> None:
    for extra in ({}, {"problem_type": "single_label_classification"}, {"id2label": {"0": "a", "1": "b", "2": "c"}}):
        folder = folder_of(tmp_path / "m", {"architectures": ["DebertaV2ForSequenceClassification"], **extra})
        assert heads.refusal(folder) is None


def test_pooling_of_sentence_transformers_makes_an_embedding_model(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"architectures": ["BertForSequenceClassification"]})
    modules = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert heads.read(folder).kind == "embeddings"


def test_a_folder_that_names_no_class_is_told_by_its_weights(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {})

    def with_weights(*names: str) -> heads.Head:
        weights(folder / "model.safetensors", *names)
        return heads.read(folder)

    assert with_weights("bert.pooler.dense.weight", "classifier.weight").kind == heads.CLASSIFIER
    assert with_weights("bert.pooler.dense.weight").kind == "embeddings"
    assert with_weights("qa_outputs.weight").kind == "question answering"
    assert (
        with_weights("model.norm.weight", "head.dense.weight", "classifier.weight").kind == ""
    )  # ModernBERT's tagger too
    assert "add the class" not in str(heads.refusal(folder))
    assert 'name it in config.json, for example "architectures"' in str(heads.refusal(folder))


@pytest.mark.parametrize("family", ["bart", "t5", "mbart"])
def test_an_encoder_decoder_is_refused_by_its_family(tmp_path: Path, family: str) -> None:
    folder = folder_of(tmp_path, {"model_type": family, "architectures": ["XForSequenceClassification"]})
    for refusal in (heads.refusal(folder), heads.start_refusal(folder)):
        assert refusal is not None
        assert f"is of an encoder-decoder family ({family})" in refusal[0]


def test_a_recipe_with_another_head_is_refused_without_loading_torch(tmp_path: Path) -> None:
    folder_of(tmp_path / "ner", HEADS["tagger"][0])
    folder_of(tmp_path / "t5", {"model_type": "t5", "architectures": ["T5EncoderModel"]})
    (tmp_path / "r.yaml").write_text("model: ner\nvariants: {base: [export]}\n")
    (tmp_path / "t.yaml").write_text("model: t5\nstages: [finetune]\nvariants: {base: [export]}\n")
    with pytest.raises(RecipeError, match=r"r\.yaml:2:12: variants\.base: .*ner is a model for token classification"):
        recipe.load(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match=r"t5 is of an encoder-decoder family \(t5\)"):
        recipe.load(tmp_path / "t.yaml")
    code = "import sys; from toolchain.cli import main\ntry: main(sys.argv[1:])\nfinally: "
    done = python(code + "assert 'torch' not in sys.modules", "export", tmp_path / "ner")
    assert done.returncode == 1
    assert "is a model for token classification (architectures ModernBertForTokenClassification)" in done.stderr


def test_an_engine_of_one_logit_or_of_another_head_is_not_opened(tmp_path: Path) -> None:
    engine = engine_folder(tmp_path / "engine")
    config = read_json(checkpoint_folder() / "config.json")
    write_json(engine / "config.json", config)
    assert Predictor(engine).predict(["a warm film"])
    write_json(engine / "config.json", config | {"problem_type": "multi_label_classification"})
    for opened in (Predictor, health.examine):
        with pytest.raises(ModelError, match="is a model for multi-label classification"):
            opened(engine)
    # Trained here, before finetune wrote a true config.json: its softmax is right.
    write_json(engine / "history.json", {"techniques": [{"stage": "finetune", "technique": "finetune"}]})
    assert Predictor(engine).predict(["a warm film"])
    interface = read_json(engine / "interface.json")
    write_json(engine / "interface.json", interface | {"labels": ["score"]})
    with pytest.raises(ModelError, match="has one label, 'score'"):
        Predictor(engine)


def test_an_adapter_is_refused_with_the_command_that_merges_it(tmp_path: Path) -> None:
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "org/base"})
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ModelError, match=r"holds an adapter \(LORA\) of org/base, not a whole model") as caught:
        source.resolve(str(tmp_path))
    assert "merge_and_unload()" in caught.value.hint


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    write_json(tmp_path / "config.json", {})
    for name in (names[0], names[2]):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=rf"lacks 1 of 3 files of weights: {names[1]}"):
        check_folder(tmp_path)
    weight_map = {"a": names[0], "b": names[1], "c": "other.safetensors"}
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    with pytest.raises(ModelError, match=rf"lacks 2 of 3 files of weights: {names[1]}, other\.safetensors"):
        check_folder(tmp_path)


def test_weights_are_taken_before_an_onnx_file_that_is_not_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "both", {})
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").touch()
    assert adopt.kind_of(str(folder)) == "checkpoint"
    assert adopt.kind_of(str(folder / "onnx" / "model.onnx")) == "onnx"
    (folder / "model.safetensors").unlink()
    assert adopt.kind_of(str(folder)) == "onnx"


def _regression(folder: Path) -> Path:
    """The tiny classifier as a regression model of two outputs, so that its head would fit two labels."""
    shutil.copytree(classifier_folder(), folder)
    (folder / "interface.json").unlink()
    config = read_json(folder / "config.json") | {
        "problem_type": "regression", "id2label": {"0": "x", "1": "y"}, "label2id": {"x": 0, "y": 1},
        "function_to_apply": "none",
    }  # fmt: skip
    write_json(folder / "config.json", config)
    return folder


def test_fine_tuning_takes_the_encoder_of_another_head_and_writes_a_true_config(tmp_path: Path) -> None:
    import torch

    start = _regression(tmp_path / "start")
    given = context(tmp_path)
    (tmp_path / "out").mkdir()
    config = finetune.Config(epochs=1, batch_size=8, learning_rate=1e-6, max_length=16)
    metrics = finetune.apply(start, tmp_path / "out", config, given)
    assert metrics["notes"] == ["start: its encoder was taken and its head made new: its head is for regression"]
    written = read_json(tmp_path / "out" / "config.json")
    assert written["problem_type"] == "single_label_classification"
    assert written["id2label"] == {"0": "negative", "1": "positive"}
    assert written["label2id"] == {"negative": 0, "positive": 1}
    assert written["architectures"] == ["BertForSequenceClassification"]
    assert "function_to_apply" not in written
    before, after = checkpoint.load_model(start), checkpoint.load_model(tmp_path / "out")
    moved = (before.classifier.weight - after.classifier.weight).abs().max()
    assert moved > 1e-3  # drawn again; one step at 1e-6 moves a weight by no more than that
    assert torch.allclose(before.bert.pooler.dense.weight, after.bert.pooler.dense.weight, atol=1e-4)


def test_a_head_of_the_tasks_own_labels_stays(tmp_path: Path) -> None:
    def reason(folder: Path, *labels: str) -> str:
        return heads.new_head_reason(folder, labels, "classification")

    assert reason(classifier_folder(), "negative", "positive") == ""
    assert "other labels (negative, positive)" in reason(classifier_folder(), "positive", "negative")
    folder = folder_of(tmp_path, {"architectures": ["BertForSequenceClassification"]})
    assert "other labels (LABEL_0, LABEL_1)" in reason(folder, "negative", "positive")
    assert reason(folder_of(tmp_path, {"architectures": ["BertModel"]}), "no", "yes") == ""


def _family(folder: Path, family: str, **settings: Any) -> Path:
    """A checkpoint folder of a family with the tiny checkpoint's tokenizer."""
    import transformers

    shutil.copytree(checkpoint_folder(), folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.AutoConfig.for_model(family, vocab_size=200, num_labels=2, **{**sizes, **settings})
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named})
    return folder


def test_a_family_that_cannot_be_exported_is_refused_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Landmarks of Nyströmformer divide the text's length, so its graph has one length alone.
    source = _family(tmp_path / "nystrom", "nystromformer", num_landmarks=8, segment_means_seq_len=64)
    monkeypatch.setattr(finetune, "train", lambda *given, **more: pytest.fail("it was trained"))
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="is of the family nystromformer, which cannot be exported for texts of any"):
        finetune.apply(source, tmp_path / "out", finetune.Config(max_length=16), context(tmp_path))


def test_deberta_of_the_first_version_trains_in_fp32(tmp_path: Path) -> None:
    source = _family(tmp_path / "deberta", "deberta", relative_attention=True, pos_att_type=["c2p", "p2c"])
    (tmp_path / "out").mkdir()
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 32, "max_length": 16}
    with pytest.raises(ModelError, match="precision bf16: deberta computes in fp32 alone"):
        finetune.apply(source, tmp_path / "out", finetune.Config(precision="bf16", **settings), context(tmp_path))
    metrics = finetune.apply(source, tmp_path / "out", finetune.Config(**settings), context(tmp_path))
    assert metrics["precision"] == "fp32"


@pytest.mark.parametrize("family", ["longformer", "xlnet", "funnel", "fnet"])
def test_a_family_that_is_known_not_to_work_is_refused_at_once(tmp_path: Path, family: str) -> None:
    folder = folder_of(tmp_path, {"model_type": family, "architectures": ["XForSequenceClassification"]})
    for refusal in (heads.refusal(folder), heads.start_refusal(folder)):
        assert refusal is not None
        assert f"is of the family {family}, which is not served" in refusal[0]
