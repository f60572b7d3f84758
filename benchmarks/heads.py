"""Which heads of which families are served: tiny random checkpoints, taken in, exported, and held against transformers.

    python benchmarks/heads.py [FAMILY …]

Each cell is a checkpoint as transformers saves it: *right* where its ONNX graph reads and answers raw texts as
transformers does (:mod:`toolchain.measure.outside`; the number is the largest difference of a logit), *refused* where
the error names the kind of model or the family. Anything else is an error of ours, and the exit code is 1.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from toolchain.core import registry
from toolchain.core.errors import GateError, ModelError
from toolchain.core.stage import Context
from toolchain.measure import outside
from toolchain.model import adopt, export, scratch

#: Head → its auto class, what its config says beside, and the words of its refusal.
HEADS: dict[str, tuple[str, dict[str, Any], str]] = {
    "classifier": ("SequenceClassification", {"num_labels": 2}, ""),
    "one score": ("SequenceClassification", {"num_labels": 1}, "regression or cross-encoder"),
    "multi-label": (
        "SequenceClassification", {"num_labels": 2, "problem_type": "multi_label_classification"}, "multi-label",
    ),
    "tagger": ("TokenClassification", {"num_labels": 2}, "token classification"),
    "answers": ("QuestionAnswering", {}, "question answering"),
    "masked LM": ("MaskedLM", {}, "masked language modelling"),
    "choice": ("MultipleChoice", {}, "multiple choice"),
    "embeddings": ("", {}, "embeddings"),
}  # fmt: skip

_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16}
_GROUPS = {f"{name}_groups": 1 for name in ("q", "k", "v", "post_attention", "intermediate", "output")}

#: Family → what its config needs beside the sizes.
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {}, "roberta": {"type_vocab_size": 1}, "albert": {"embedding_size": 32}, "distilbert": {},
    "electra": {"embedding_size": 32}, "xlm-roberta": {"type_vocab_size": 1}, "camembert": {"type_vocab_size": 1},
    "mpnet": {}, "deberta-v2": {**_RELATIVE, "pooler_hidden_size": 64, "norm_rel_ebd": "layer_norm"},
    "modernbert": {}, "squeezebert": {"embedding_size": 64, **_GROUPS}, "roformer": {"embedding_size": 64},
}  # fmt: skip

#: Families whose tokenizers have padding at 1 and no token types.
BPE = ("roberta", "xlm-roberta", "camembert", "mpnet")

SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
    "max_position_embeddings": 130,
}  # fmt: skip

#: A refusal takes no longer, in seconds.
SOON_S = 5.0


def write(family: str, head: str, texts: list[tuple[str, ...]], folder: Path) -> bool:
    """Write a checkpoint; return False where transformers has no such class."""
    kind = "bpe" if family in BPE else "wordpiece"
    trained = scratch.train_tokenizer(kind, texts)
    special = (
        ("<pad>", "<unk>", "<s>", "</s>", "<mask>") if kind == "bpe" else ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    inputs = ["input_ids", "attention_mask", *([] if kind == "bpe" or family == "distilbert" else ["token_type_ids"])]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained,
        model_max_length=128,
        model_input_names=inputs,
        **dict(zip(names, special, strict=True)),
    )
    auto, settings, _ = HEADS[head]
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(special[at]) for name, at in
           (("pad", 0), ("cls", 2), ("bos", 2), ("sep", 3), ("eos", 3))}  # fmt: skip
    config = transformers.AutoConfig.for_model(
        family, vocab_size=len(tokenizer), **{**SIZES, **FAMILIES[family], **ids, **settings}
    )
    try:
        model = getattr(transformers, f"AutoModelFor{auto}" if auto else "AutoModel").from_config(config)
    except ValueError:
        return False
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # so large that attention, positions and padding matter to the answer
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 1.5 / weight.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return True


def cell(family: str, head: str, context: Context, folder: Path) -> tuple[str, bool]:
    """Return what stands in the table, and whether that is right."""
    if not write(family, head, list(context.dataset().train.texts), folder / "model"):
        return "–", True
    expected = HEADS[head][2]
    checkpoint, graph = folder / "checkpoint", folder / "onnx"
    checkpoint.mkdir()
    graph.mkdir()
    started = time.monotonic()
    try:
        if refusal := adopt.refusal(str(folder / "model")):
            raise ModelError(*refusal)
        adopt.apply(adopt.Config(path=str(folder / "model")), checkpoint, context)
        outside.check_tokens(folder / "model", checkpoint, context.dataset().dev.texts)
        export.apply(checkpoint, graph, export.Config(), context)
        found = outside.check(checkpoint, graph, context.dataset().dev.texts, context.threads)
    except (ModelError, GateError) as error:
        named = (expected or family) in error.message and time.monotonic() - started < SOON_S
        return ("refused", True) if named else (f"**{error.message}**", False)
    except Exception as error:  # what a user would see as an internal error
        return f"**{type(error).__name__}: {error}**", False
    return (f"right, {found['max_difference']:.0e}", True) if not expected else ("**taken in**", False)


def main(families: list[str]) -> int:
    """Print the table; 1 where a cell is wrong."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    task = registry.get("tasks", "reviews")
    data = task.module.load(task.config(train_size=200, dev_size=40, test_size=40))
    print(f"| family | {' | '.join(HEADS)} |")
    print("|---" * (len(HEADS) + 1) + "|", flush=True)
    sound = True
    for family in families or FAMILIES:
        row = []
        for head in HEADS:
            with tempfile.TemporaryDirectory() as name:
                context = Context(work=Path(name), seed=17, threads=1, dataset=lambda: data)
                text, right = cell(family, head, context, Path(name))
            row.append(text)
            sound &= right
        print(f"| {family} | {' | '.join(row)} |", flush=True)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
