"""Vocabulary pruning: tokens that the task's texts do not need leave the embedding and the tokenizer together.

Abdaoui, Pradel and Sigel, "Load What You Need", arXiv 2010.05609. The table ``E`` ``[V, d]`` becomes ``E[kept]``, and
the tokenizer knows the kept tokens alone, renumbered in their old order. Needed is what the training texts are
tokenized into; dev and test have no say in it. On texts whose tokens all stay, the tokens, and so the logits, are what
they were.

A word that was not seen falls apart into smaller pieces that remain, at the worst into its characters, which always
stay; an unknown token appears only where there was one before. What that costs is reported under ``unseen``: the dev
examples whose tokens have changed, apart from those that are read as before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from toolchain.compress.shared.recovery import recover
from toolchain.compress.vocabulary_prune import tokenizer_file as vocabulary
from toolchain.core.data import Split
from toolchain.core.errors import DataError, ModelError, require
from toolchain.core.registry import suggest
from toolchain.core.stage import Context, Ge, Metrics, StageConfig
from toolchain.model import checkpoint
from toolchain.model.encoded import Encoded, encode
from toolchain.model.train import TrainConfig, accuracy

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")
METHOD = "pruned"


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of vocabulary pruning.

    Attributes:
        tokens: How many tokens stay: those that cannot leave, then the most used, then of the unused the first in the
            vocabulary, which are the commonest of pre-training; absent: every token that is used.
        min_count: Without tokens: a token stays when it is used at least so often.
        files: More text files, one text a line, whose tokens are needed as well.
        finetune: Train afterwards, with these settings; absent: the weights stay as they are.
    """

    tokens: Annotated[int, Ge(1)] | None = None
    min_count: Annotated[int, Ge(1)] = 1
    files: tuple[str, ...] = ()
    finetune: TrainConfig | None = None

    def __post_init__(self) -> None:
        """Checks what ranges cannot say."""
        if self.tokens is not None and self.min_count > 1:
            raise ValueError(f"min_count: {self.min_count} says nothing beside tokens: {self.tokens}; leave out one")


def fingerprint(config: Config) -> dict[str, Any]:
    """Digests of the text files, so that the result is another one when they change.

    Raises:
        DataError: One cannot be read.
    """
    import hashlib

    return {name: hashlib.sha256(_bytes(name)).hexdigest() for name in config.files}


def fits(config: Config, shape: Any) -> tuple[str, str] | None:
    """What is wrong with the files, and what to do, or None: said before anything runs."""
    try:
        fingerprint(config)
    except DataError as error:
        return error.message, error.hint
    return None


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Prunes the vocabulary of a checkpoint.

    Args:
        source: Checkpoint folder.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data.

    Returns:
        tokens and parameters, before and after, bytes_saved of the weights, and what the training loop reports;
        ``unseen``: over dev, over its examples whose tokens changed and over the others, their number and the accuracy
        before and after (and ``accuracy_trained`` with finetune), and the unknown tokens before and after.

    Raises:
        ModelError: The tokenizer is of a kind that cannot be cut, or ``tokens`` is out of what the model allows.
        DataError: A text file cannot be read.
    """
    model = checkpoint.load_model(source)
    tokenizer = checkpoint.load_tokenizer(source)
    interface = checkpoint.read_json(source / "interface.json")
    data = context.dataset()
    texts = [part for text in data.train.texts for part in text]
    texts += [line for name in config.files for line in _lines(name)]
    record = vocabulary.read(tokenizer.backend_tokenizer, str(source))
    kept = _choose(model, record, texts, config, str(source))
    ids = vocabulary.token_ids(record)
    pruned = _reload(tokenizer, vocabulary.keep(record, kept))

    unseen = _Unseen.of(model, tokenizer, pruned, data.split("dev"), int(interface["max_length"]))
    unseen.judge(model, "before")
    tokens_before, parameters_before = _table(model).num_embeddings, checkpoint.count_parameters(model)
    _cut(model, sorted(ids[token] for token in kept))
    unseen.judge(model, "after")
    metrics: dict[str, Any] = {}
    if config.finetune is not None:
        metrics = recover(model, pruned, source, config.finetune, None, context)
        unseen.judge(model, "trained")
    checkpoint.save_like(model, pruned, source, out)
    parameters = checkpoint.count_parameters(model)
    return metrics | {
        "tokens": len(kept),
        "tokens_before": tokens_before,
        "parameters": parameters,
        "parameters_before": parameters_before,
        "bytes_saved": (parameters_before - parameters) * _table(model).weight.element_size(),
        "unseen": unseen.report,
    }


@dataclass(frozen=True)
class _Unseen:
    """Dev examples, by whether the pruned tokenizer reads them as before, and what is reported of them."""

    before: Encoded
    after: Encoded
    groups: Mapping[str, Sequence[int]]
    report: dict[str, Any]

    @classmethod
    def of(cls, model: Any, tokenizer: Any, pruned: Any, dev: Split, max_length: int) -> _Unseen:
        """Tokenizes dev with the two tokenizers and compares the tokens, not their ids."""
        names = checkpoint.model_inputs(model, tokenizer)
        encoded = [encode(each, dev, max_length, names) for each in (tokenizer, pruned)]
        read = [
            [each.convert_ids_to_tokens(row["input_ids"]) for row in rows.inputs]
            for each, rows in zip((tokenizer, pruned), encoded, strict=True)
        ]
        changed = [before != after for before, after in zip(*read, strict=True)]
        groups = {
            "changed": [i for i, is_changed in enumerate(changed) if is_changed],
            "unchanged": [i for i, is_changed in enumerate(changed) if not is_changed],
        }
        unknown = [sum(tokens.count(tokenizer.unk_token) for tokens in rows) for rows in read]
        report: dict[str, Any] = {"unknown_before": unknown[0], "unknown_after": unknown[1]}
        report |= {name: {"examples": len(chosen)} for name, chosen in groups.items()}
        return cls(encoded[0], encoded[1], groups, report | {"all": {"examples": len(dev)}})

    def judge(self, model: Any, when: str) -> None:
        """Notes ``accuracy_<when>`` of each group, None where it is empty, and of all."""
        data, correct = self.before if when == "before" else self.after, 0
        for name, chosen in self.groups.items():
            part = data.take(chosen)
            found = accuracy(model, part)[0] if chosen else None
            self.report[name][f"accuracy_{when}"] = found
            correct += round((found or 0) * len(chosen))
        self.report["all"][f"accuracy_{when}"] = correct / len(data.labels)


def _table(model: Any) -> Any:
    """The ``torch.nn.Embedding`` with a row for each token; of a factorized embedding, its first factor."""
    embeddings = model.get_input_embeddings()
    return getattr(embeddings, "first", embeddings)


def _choose(model: Any, record: Mapping[str, Any], texts: Sequence[str], config: Config, where: str) -> set[str]:
    """The tokens that stay."""
    ids = vocabulary.token_ids(record)
    counts, origins = vocabulary.count(record, texts), vocabulary.origins(record)
    named = _named(model)
    always = vocabulary.always(record) | {token for token, index in ids.items() if index in named}
    kept = {part for token in always for part in origins(token)}
    if config.tokens is None:
        return kept.union(*(origins(token) for token in ids if counts[token] >= config.min_count))
    if not len(kept) <= config.tokens <= len(ids):
        raise ModelError(
            f"tokens: {config.tokens:,} of {where} cannot stay; allowed are {len(kept):,} to {len(ids):,}",
            f"at least its special tokens and single characters stay, {len(kept):,}; it has {len(ids):,} tokens in all",
        )
    return _fill(kept, sorted(ids, key=lambda token: (-counts[token], ids[token])), origins, config.tokens)


def _fill(kept: set[str], order: Sequence[str], origins: Callable[[str], set[str]], tokens: int) -> set[str]:
    """Adds tokens in this order, each with what it is merged from, passing over what does not fit."""
    for token in order:
        if len(kept) == tokens:
            break
        if token not in kept and len(kept) + len(more := origins(token) - kept) <= tokens:
            kept |= more
    return kept


def _named(model: Any) -> set[int]:
    """Ids that the config names, and where positions are counted from the padding's id, all before that."""
    named = {
        index for value in _config_ids(model).values() for index in (value if isinstance(value, list) else [value])
    }
    torch = require("torch", "torch")
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            named |= set(range(module.padding_idx or 0))
    return named


def _config_ids(model: Any) -> dict[str, Any]:
    """What the config says of tokens by id: ``pad_token_id`` and its like, a number or several."""
    found = model.config.to_dict()
    return {name: value for name, value in found.items() if name.endswith("_token_id") and value is not None}


def _cut(model: Any, kept: Sequence[int]) -> None:
    """Leaves these rows of the table, in this order, and says so in the config."""
    torch = require("torch", "torch")
    new = {old: index for index, old in enumerate(kept)}
    table = _table(model)
    table.weight = torch.nn.Parameter(table.weight.detach()[torch.tensor(kept)].clone())
    table.num_embeddings = len(kept)
    if table.padding_idx is not None:
        table.padding_idx = new[table.padding_idx]
    for name, value in _config_ids(model).items():
        renumbered = [new.get(index) for index in value] if isinstance(value, list) else new.get(value)
        setattr(model.config, name, renumbered)
    model.config.vocab_size = len(kept)


def _reload(tokenizer: Any, record: Mapping[str, Any]) -> Any:
    """The tokenizer with another ``tokenizer.json``, as whoever opens the checkpoint will load it.

    Raises:
        ModelError: It loads with other ids than the file has.
    """
    with tempfile.TemporaryDirectory() as name, checkpoint.quiet():
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        for stale in checkpoint.TOKENIZER_FILES:
            if stale not in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                (folder / stale).unlink(missing_ok=True)
        checkpoint.write_json(folder / "tokenizer.json", record)
        made = checkpoint.load_tokenizer(folder)
    if made.get_vocab() != vocabulary.token_ids(record):
        raise ModelError(
            f"{type(tokenizer).__name__} does not take another vocabulary: it loads with {len(made):,} tokens, and its "
            f"file has {len(vocabulary.token_ids(record)):,}",
            "leave vocabulary_prune out for this model",
        )
    return made


def _lines(name: str) -> list[str]:
    """The texts of a file: its lines, empty ones left out."""
    try:
        text = _bytes(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not UTF-8 from byte {error.start}", "convert it, e.g. with iconv") from error
    lines = text.replace("\r\n", "\n").split("\n")
    return [line for line in lines if line.strip()]


def _bytes(name: str) -> bytes:
    path = Path(name).expanduser()
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        near = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = suggest(path.name, near[:20]) if near else f"the folder {path.parent} is empty or not there"
        raise DataError(f"files: {path}: no such file", hint) from error
    except OSError as error:
        raise DataError(
            f"files: {path}: cannot be read: {error.strerror}", "name text files, one text a line"
        ) from error
