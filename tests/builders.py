"""Small real models for tests: random weights, a tokenizer trained on a few sentences. Each is built once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.shared import TRACES, once, root
from toolchain.core.data import Dataset, Split
from toolchain.core.registry import get, stage
from toolchain.core.stage import Context, Teaching

SENTENCES = (
    "a warm and funny film that earns every laugh",
    "the plot is thin and the jokes are old",
    "not bad at all , but far too long",
    "an honest story told with great care",
    "i wanted to like it and could not",
    "dull",
    "one of the finest films of the year , and one of the shortest",
    "it never finds its feet",
)
LABELS = ("negative", "positive")
MAX_LENGTH = 32

#: Architecture to (config class, model class, settings of its own).
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", {}),
    "albert": ("AlbertConfig", "AlbertForSequenceClassification", {"embedding_size": 32}),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", {"type_vocab_size": 1}),
}


def checkpoint_folder(architecture: str = "bert", *, pair: bool = False) -> Path:
    """A checkpoint with 2 layers, 64 wide; the same folder at every call, never to be written to."""
    return once(f"checkpoint-{architecture}-{pair}", lambda out: _checkpoint(architecture, pair, out))


def classifier_folder(architecture: str = "bert", size: str = "2x128") -> Path:
    """A checkpoint as the program itself writes it, with a tokenizer of its family; never to be written to."""
    folder = once(f"classifier-{architecture}-{size}", lambda out: _classifier(architecture, size, out))
    return folder / "checkpoint"


def _classifier(architecture: str, size: str, folder: Path) -> None:
    import torch

    from toolchain.model import checkpoint, scratch

    data = sentences()
    more = get("tasks", "reviews").module
    texts = more.load(more.Config(train_size=64, dev_size=8, test_size=8)).train.texts  # words that sentences() lacks
    scratch.create(f"scratch:{architecture}-{size}", [*data.train.texts, *texts], 17, folder / "encoder")
    model = checkpoint.load_for_training(folder / "encoder", data.labels, 17)
    # The default start gives every text the same logits to three digits; this one tells texts apart.
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embeddings" not in name:
            torch.nn.init.normal_(weight, std=0.15)
    (folder / "checkpoint").mkdir()
    tokenizer = checkpoint.load_tokenizer(folder / "encoder")
    checkpoint.save(model, tokenizer, folder / "checkpoint", max_length=MAX_LENGTH, labels=data.labels, pair=False)


def writer_folder(head: str) -> Path:
    """A model that makes text, random weights: MaskedLM (BERT), Seq2SeqLM (T5) or CausalLM (GPT-2)."""
    return once(f"writer-{head}", lambda out: _writer(head, out))


def _writer(head: str, folder: Path) -> None:
    import torch
    import transformers

    from toolchain.model import scratch

    texts = sentences().train.texts
    kinds = {"MaskedLM": "wordpiece", "Seq2SeqLM": "unigram", "CausalLM": "bpe"}
    tokenizer = scratch.train_tokenizer(kinds[head], texts)
    size = tokenizer.get_vocab_size()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    if head == "MaskedLM":
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
        config = transformers.BertConfig(
            vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=64,
        )  # fmt: skip
    elif head == "Seq2SeqLM":
        config = transformers.T5Config(
            vocab_size=size, d_model=32, d_ff=64, d_kv=16, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=3,
            decoder_start_token_id=0, initializer_factor=3.0,  # what it writes depends on what it reads
        )  # fmt: skip
    else:
        config = transformers.GPT2Config(
            vocab_size=size, n_embd=32, n_layer=1, n_head=2, n_positions=128, bos_token_id=2, eos_token_id=2
        )
    torch.manual_seed(17)
    getattr(transformers, f"AutoModelFor{head}").from_config(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def elastic_folder(architecture: str = "bert") -> Path:
    """That checkpoint, trained for several widths and depths by ``dynabert``; never to be written to."""
    return once(f"elastic-{architecture}", lambda out: _elastic(architecture, out))


def _elastic(architecture: str, out: Path) -> None:
    from toolchain.model.train import TrainConfig

    technique = get("compress", "dynabert")
    (out / "work").mkdir()
    training = TrainConfig(epochs=1, batch_size=8, learning_rate=1e-3, max_length=MAX_LENGTH)
    config = technique.config(widths=(1.0, 0.5), depths=(1.0, 0.5), calibration_samples=8, finetune=training)
    technique.module.apply(classifier_folder(architecture), out, config, context(out / "work"))
    shutil.rmtree(out / "work")


def onnx_folder(architecture: str = "bert", *, pair: bool = False) -> Path:
    """The same model as ``model.onnx`` from PyTorch's exporter; never to be written to."""
    return once(f"onnx-{architecture}-{pair}", lambda out: _onnx(architecture, pair, out))


def tiny_onnx_folder(path: Path, architecture: str = "bert", *, pair: bool = False) -> Path:
    """A copy of the ONNX folder that a test may change."""
    return Path(shutil.copytree(onnx_folder(architecture, pair=pair), path / "onnx"))


def context(work: Path, dataset: Dataset | None = None) -> Context:
    """A context of one thread, with the traced graphs that all processes share."""
    found = dataset if dataset is not None else sentences()
    return Context(work=work, seed=17, threads=1, dataset=lambda: found, traces=root() / TRACES)


def taught(given: Context, source: Path) -> Context:
    """The same context with a checkpoint as its only teacher, whose answers lie in its work folder."""
    answers = given.work / "answers"
    answers.mkdir(exist_ok=True)
    teach = stage("teach").module
    teach.apply(source, answers, teach.Config(), given)
    return dataclasses.replace(given, teachers=(Teaching(source, answers),))


def sentences(*, pair: bool = False, copies: int = 4) -> Dataset:
    """A data set of ``8 * copies`` examples in every split, of different lengths, labelled in turn."""
    texts = [(text, SENTENCES[0]) if pair else (text,) for text in SENTENCES] * copies
    split = Split(texts, [index % len(LABELS) for index in range(len(texts))])
    return Dataset(split, split, split, LABELS)


def engine_folder(out: Path, engine: str = "onnxruntime", *, pair: bool = False, **settings: Any) -> Path:
    """Builds an engine of the tiny BERT and adds what the build stage adds: interface and tokenizer."""
    module = get("engines", engine).module
    checkpoint = module.ACCEPTS == ("checkpoint",)
    source = checkpoint_folder(pair=pair) if checkpoint else onnx_folder(pair=pair)
    out.mkdir(parents=True, exist_ok=True)
    module.build(source, out, module.Config(**settings), context(out))
    for name in ("interface.json", "tokenizer.json"):
        shutil.copyfile(source / name, out / name)
    return out


def dynamic_int8(source: Path) -> None:
    """Quantizes the ``model.onnx`` of a folder in place, as ONNX Runtime's own dynamic quantizer does."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source / "model.onnx")
    del model.graph.value_info[:]
    quantize_dynamic(model, source / "model.onnx", per_channel=True, weight_type=QuantType.QInt8)


def _checkpoint(architecture: str, pair: bool, folder: Path) -> None:
    import torch
    import transformers

    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config_class, model_class, own = ARCHITECTURES[architecture]
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    common = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 64, "pad_token_id": 0, **size}
    config = getattr(transformers, config_class)(**{**common, **own})
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(config).eval()
    # The default start, 0.02, gives every text the same logits to three digits; this one tells texts apart.
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embeddings" not in name:
            torch.nn.init.normal_(weight, std=0.15)
    model.save_pretrained(folder)
    interface = {"labels": list(LABELS), "max_length": MAX_LENGTH, "pad_id": 0, "pad_type_id": 0, "pair": pair}
    _write(folder / "interface.json", interface)
    _write(folder / "history.json", {"techniques": []})


def _onnx(architecture: str, pair: bool, folder: Path) -> None:
    import torch
    import transformers

    source = checkpoint_folder(architecture, pair=pair)
    names = ["input_ids", "attention_mask", "token_type_ids"][: 2 if architecture == "roberta" else 3]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source).eval()

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def forward(self, *inputs: Any) -> Any:
            return model(**dict(zip(names, inputs, strict=True))).logits

    example = torch.ones((2, 7), dtype=torch.int64)
    torch.onnx.export(
        Logits().eval(),
        (example,) if len(names) == 1 else tuple(example.clone() for _ in names),
        str(folder / "model.onnx"),
        dynamo=True,
        input_names=names,
        output_names=["logits"],
        dynamic_shapes=(tuple({0: "batch", 1: "seq"} for _ in names),),
        external_data=False,
        verbose=False,
    )
    for name in ("tokenizer.json", "config.json", "history.json"):
        shutil.copyfile(source / name, folder / name)
    interface = json.loads((source / "interface.json").read_text())
    _write(folder / "interface.json", {**interface, "inputs": names, "dialect": "standard"})


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    # Not trained: the trainer orders pieces of like counts differently in every process.
    words = {word for sentence in SENTENCES for word in sentence.lower().split()}
    letters = {letter for word in words for letter in word}
    pieces = [*special, *sorted(letters), *sorted(f"##{letter}" for letter in letters), *sorted(words - letters)]
    pieces += [f"[unused{number}]" for number in range(200 - len(pieces))]  # large enough to be quantized
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def weights(path: Path, *names: str, size: int = 4) -> None:
    """Write a safetensors file with a tensor of zeros under each name, each of that many bytes."""
    import numpy as np
    from safetensors.numpy import save_file

    save_file({name: np.zeros(size // 4, np.float32) for name in names}, path)


def stopping_at(stop: int) -> Callable[..., Any]:
    """The training loop, as one that Ctrl-C ends after so many steps; for techniques that have no hook there."""
    from toolchain.model.train import train

    def stopped(*arguments: Any, hooks: Any, **more: Any) -> Any:
        def after(step: int, total: int) -> None:
            if step == stop:
                raise KeyboardInterrupt

        return train(*arguments, hooks=dataclasses.replace(hooks, after_step=after), **more)

    return stopped


def exact_options() -> Any:
    """Options with which ONNX Runtime adds int8 products in 32 bits on every processor; without VNNI it saturates."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options
