"""New models with random weights and a tokenizer trained on the task's text.

They make the whole path run with no download: tests, smoke runs, and a floor to compare pretrained models with. Each
architecture gets the kind of tokenizer that its family uses: WordPiece (BERT and kin), byte-level BPE (RoBERTa),
SentencePiece-style unigram (ALBERT, DeBERTa).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.core.errors import ModelError, require
from toolchain.model.source import POSITIONS, SCRATCH

VOCABULARY = 2000

#: transformers' model types that can be made here, with the kind of tokenizer of each family.
ARCHITECTURES = {
    "bert": "wordpiece",
    "distilbert": "wordpiece",
    "electra": "wordpiece",
    "mobilebert": "wordpiece",
    "roberta": "bpe",
    "albert": "unigram",
    "deberta-v2": "unigram",
}


def shape(spec: str) -> tuple[str, int, int]:
    """Return the architecture, the number of layers and the width that a specification asks for.

    Raises:
        ModelError: An architecture that cannot be made here, or a width that does not divide into heads.
    """
    match = SCRATCH.fullmatch(spec)
    architecture = match["architecture"] if match else ""
    if match is None or architecture not in ARCHITECTURES:
        raise ModelError(f"{spec!r}: no such architecture to make from scratch", f"known: {', '.join(ARCHITECTURES)}")
    layers, hidden = int(match["layers"]), int(match["hidden"])
    if layers < 1 or hidden < 32 or hidden % 32:
        raise ModelError(f"{spec!r}: layers must be 1 or more and the width a multiple of 32", "for example 2x128")
    return architecture, layers, hidden


def create(spec: str, texts: Sequence[tuple[str, ...]], seed: int, out: Path) -> None:
    """Writes a new model folder.

    Args:
        spec: ``scratch:ARCHITECTURE-LAYERSxWIDTH``; the width is a multiple of 32, one head for each 32.
        texts: What the tokenizer is trained on.
        seed: Seed of the random weights.
        out: Folder to write.

    Raises:
        ModelError: An architecture that cannot be made here, or a width that does not divide into heads.
    """
    architecture, layers, hidden = shape(spec)
    torch, transformers = require("torch", "torch"), require("transformers", "torch")
    kind = ARCHITECTURES[architecture]
    tokenizer = train_tokenizer(kind, texts)
    pad, positions = (1, POSITIONS + 2) if kind == "bpe" else (0, POSITIONS)
    sizes: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": positions,
        "pad_token_id": pad,
    }
    if architecture == "distilbert":
        sizes |= {"dim": hidden, "n_layers": layers, "n_heads": hidden // 32, "hidden_dim": 4 * hidden}
    if architecture in ("albert", "electra"):
        sizes["embedding_size"] = max(32, hidden // 2)
    if architecture == "mobilebert":
        sizes |= {"intra_bottleneck_size": hidden // 4, "embedding_size": hidden // 2, "true_hidden_size": hidden // 4}
    config = transformers.AutoConfig.for_model(architecture, **sizes)
    torch.manual_seed(seed)
    model = transformers.AutoModel.from_config(config, dtype=torch.float32)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    names = (
        ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
        if kind != "wordpiece"
        else ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=POSITIONS,
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), names, strict=True)),
        model_input_names=["input_ids", *([] if kind == "bpe" else ["token_type_ids"]), "attention_mask"],
    )
    fast.save_pretrained(out)


def train_tokenizer(kind: str, texts: Sequence[tuple[str, ...]]) -> Any:
    """Makes a ``tokenizers.Tokenizer`` of frequent words and letters, with its family's template for one and two texts.

    The library's own trainers for WordPiece and unigram order equally frequent tokens at random; here the same texts
    give the same tokenizer. Byte-level BPE is trained by the library, which is repeatable.

    Args:
        kind: ``wordpiece``, ``bpe`` or ``unigram``.
        texts: Training texts; at most 10,000 of them are read.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    lines = [part for text in texts[:10_000] for part in text]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    first, last = "<s>", "</s>"
    if kind == "wordpiece":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        first, last = "[CLS]", "[SEP]"
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        words, letters = _count(tokenizer, lines)
        pieces = [*letters, *(f"##{letter}" for letter in letters), *words]
        tokens = list(dict.fromkeys([*special, *pieces]))[:VOCABULARY]
        tokenizer.model = models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]")
        tokenizer.add_special_tokens(special)
    elif kind == "unigram":
        special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        words, letters = _count(tokenizer, lines)
        pieces = list(dict.fromkeys([*letters, *words]))[: VOCABULARY - len(special)]
        total = sum(words.values())
        rare = math.log(0.5 / total)  # below every word that occurs
        scores = [(piece, math.log(words[piece] / total) if piece in words else rare) for piece in pieces]
        tokenizer.model = models.Unigram([*((token, 0.0) for token in special), *scores], unk_id=1)
        tokenizer.add_special_tokens(special)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(lines, trainer)
    single, pair = f"{first} $A {last}", f"{first} $A {last} $B:1 {last}:1"
    if kind == "bpe":  # RoBERTa has two separators and no token types
        pair = f"{first} $A {last} {last} $B {last}"
    ends = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ends)
    return tokenizer


def _count(tokenizer: Any, lines: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Words as the tokenizer's first steps split them, the most frequent first, and their letters in order."""
    counts: Counter[str] = Counter()
    for line in lines:
        pieces = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(line))
        counts.update(piece for piece, _ in pieces)
    words = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return words, sorted({letter for word in words for letter in word})
