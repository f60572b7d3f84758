"""Checkpoints: a Hugging Face model folder plus what was done to it, pruned shapes and low-rank factors included.

``history.json`` lists the techniques applied, in order, with their settings; ``interface.json`` is what whoever runs
the model must know of it (labels, longest input, padding).
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchain import kinds
from toolchain.core import documents
from toolchain.core.data import CLASSIFICATION
from toolchain.core.errors import ModelError, ToolchainError, first_line, require
from toolchain.core.files import copy_files, safe_folder
from toolchain.core.log import logger
from toolchain.core.session import INPUTS
from toolchain.core.vendor import vendor
from toolchain.model import pretrained, shapes
from toolchain.model.config import read_config
from toolchain.model.folder import check_folder
from toolchain.model.source import POSITIONS, first_position

_AGAIN = "copy or download it again"

#: Settings of ``config.json`` that describe the head that a model had before.
_HEAD_SETTINGS = {"function_to_apply", "sentence_transformers", "finetuning_task", "task_specific_params"}

#: A tokenizer that knows no longest input says 1e30.
UNLIMITED = 1e9

#: Files of a model folder that belong to its tokenizer.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)

#: What to do about a folder without any of them.
NO_TOKENIZER = (
    "write tokenizer.json into it: AutoTokenizer.from_pretrained(BASE).save_pretrained(FOLDER), "
    "where BASE is the model that was fine-tuned"
)


def load_model(folder: Path, attention: str = "sdpa", kind: str = "") -> Any:
    """Loads a checkpoint's model, of the kind that its interface names, in fp32 and evaluation mode.

    Args:
        folder: A model folder.
        attention: ``sdpa``, the fastest in PyTorch, or ``eager``, plain products and softmax; an architecture
            without the first computes the second.
        kind: The kind of task, of a folder that does not name it.

    Raises:
        ModelError: The folder is no classifier, or its weights do not fit its config.
    """
    head = (kinds.get(kind) if kind else kinds.of_folder(folder)).HEAD
    model, missing, unfit = _load(folder, head)
    if not head:  # what BERT has behind its encoder, which embeddings do not read
        missing = {name for name in missing if not name.startswith("pooler.")}
    if unfit:
        raise _unfit(folder, unfit)
    if attention == "eager":
        model.set_attn_implementation("eager")
    if missing:
        raise ModelError(
            f"{folder} is no fine-tuned classifier: its file lacks {', '.join(sorted(missing)[:3])}",
            "fine-tune it first: toolchain finetune FOLDER --task TASK",
        )
    return model.eval()


def refuse_quantized(folder: Path) -> None:
    """Refuses a checkpoint that was quantized in training to what would change its layers.

    Raises:
        ModelError: It was.
    """
    if shapes.QUANTIZERS in read_config(folder):
        raise ModelError(
            f"{folder} is quantized in training already, and its layers stay as they are",
            "use the checkpoint that it was made from, and quantize last",
        )


def load_for_training(
    folder: Path, labels: Sequence[str], seed: int, *, new_head: bool = False, kind: str = CLASSIFICATION
) -> Any:
    """Loads an encoder with a head for these labels; a head that does not fit is made anew.

    Args:
        folder: A model folder, an encoder alone or a classifier of another task.
        labels: Class names.
        seed: Seed of a new head's weights.
        new_head: Whether the head is made anew even where its weights fit.
        kind: The kind of task.

    Raises:
        ModelError: The architecture has no sequence classifier, or encoder weights are missing from the file.
    """
    torch = require("torch", "torch")
    refuse_quantized(folder)
    torch.manual_seed(seed)
    model, missing, unfit = _load(folder, kinds.get(kind).HEAD, **kinds.get(kind).head_config(labels))
    for name in _HEAD_SETTINGS & set(model.config.to_dict()):
        delattr(model.config, name)
    prefix = f"{model.base_model_prefix}."
    if inner := {name: why for name, why in unfit.items() if name.startswith(prefix)}:
        raise _unfit(folder, inner)
    encoder = [name for name in missing if name.startswith(prefix) and "pooler" not in name]
    if encoder:
        raise ModelError(f"{folder}: the file lacks encoder weights: {', '.join(sorted(encoder)[:3])}")
    if new := {*missing, *unfit}:
        logger.debug("    new weights for: %s", ", ".join(sorted(new)))
    if new_head:
        torch.manual_seed(seed)
        _renew_head(model, prefix)
    return model


def _renew_head(model: Any, prefix: str) -> None:
    """Draws the weights outside the encoder again, as the family's own initialization does."""
    for name, module in model.named_modules():
        if name and not f"{name}.".startswith(prefix):
            for part in (module, *module.parameters(recurse=False)):
                vars(part).pop("_is_hf_initialized", None)  # transformers 5 leaves alone what has this mark
            model._init_weights(module)


def _unfit(folder: Path, weights: dict[str, str]) -> ModelError:
    shown = "; ".join(f"{name} {weights[name]}" for name in sorted(weights)[:3])
    return ModelError(
        f"{folder}: {len(weights)} weights do not fit config.json: {shown}",
        "config.json and model.safetensors are of two models: copy both from one",
    )


def _load(folder: Path, head: str, **settings: Any) -> tuple[Any, set[str], dict[str, str]]:
    """The model, the weights that the file lacks, and those of another shape with both shapes."""
    torch, transformers = require("torch", "torch"), require("transformers", "torch")
    check_folder(folder)
    config = read_config(folder)
    try:
        with quiet():
            if shapes.KEY in config or shapes.QUANTIZERS in config:
                return _load_own(folder, head, config, settings)
            model, info = pretrained.model(folder, head, dtype=torch.float32, ignore_mismatched_sizes=True, **settings)
    except (ToolchainError, KeyboardInterrupt):
        raise
    except BaseException as error:  # of transformers, torch and safetensors, which share no class
        if type(error).__name__ == "SafetensorError":
            raise ModelError(f"{folder}: the weights are damaged: {first_line(error)}", _AGAIN) from error
        known = f"architecture {config.get('model_type', 'unknown')!r}"
        raise ModelError(
            f"{folder} ({known}) cannot be loaded as a text classifier: "
            f"{first_line(error).partition(' Model type ')[0]}",
            f"this is transformers {transformers.__version__}: 'pip install -U transformers' knows newer architectures",
        ) from error
    unfit = {
        str(name): f"is {list(found)} in the file and {list(wanted)} by config.json"
        for name, found, wanted in info["mismatched_keys"]
    }
    return model, set(info["missing_keys"]) - set(unfit), unfit


def _load_own(
    folder: Path, head: str, found: dict[str, Any], settings: dict[str, Any]
) -> tuple[Any, set[str], dict[str, str]]:
    """As :func:`_load`, for a model whose modules have shapes of their own, or are quantized."""
    torch = require("torch", "torch")
    config = pretrained.config(folder, **settings)
    model = pretrained.auto_class(head).from_config(config, dtype=torch.float32, trust_remote_code=False)
    shapes.restore(model, found.get(shapes.KEY, {}), str(folder))
    if shapes.QUANTIZERS in found:
        from toolchain.model import quantized

        quantized.restore(model, found[shapes.QUANTIZERS], str(folder))
    weights = require("safetensors.torch", "torch").load_file(str(folder / "model.safetensors"))
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    unfit = {
        name: f"is {list(value.shape)} in the file and {list(wanted[name])} by config.json"
        for name, value in weights.items() if name in wanted and value.shape != wanted[name]
    }  # fmt: skip
    fitting = {name: value for name, value in weights.items() if name in wanted and name not in unfit}
    missing, _ = model.load_state_dict(fitting, strict=False)
    return model, set(missing) - set(unfit), unfit


def load_tokenizer(folder: Path) -> Any:
    """Loads the model's own fast tokenizer.

    Raises:
        ModelError: There is none in the folder, or it has no fast version.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"{folder} holds no tokenizer", NO_TOKENIZER)
    with vendor("the tokenizer cannot be loaded", f"{folder}:", ModelError, _AGAIN), quiet():
        tokenizer = pretrained.tokenizer(folder)
        if absent := _added_by_class(tokenizer, folder):
            tokenizer = pretrained.tokenizer(folder, **absent)
    if not tokenizer.is_fast:
        raise ModelError(f"{folder}: {type(tokenizer).__name__} has no fast version (tokenizer.json)")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{folder}: the tokenizer has no padding token", "set pad_token in tokenizer_config.json")
    return tokenizer


def _added_by_class(tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Return the setting that leaves ``[MASK]`` out where the tokenizer's class adds it to ``tokenizer.json``.

    A classifier reads texts without it, and its model has no embedding for it.
    """
    file = folder / "tokenizer.json"
    if not file.is_file() or tokenizer.mask_token is None:
        return {}
    own = require("tokenizers", "torch").Tokenizer.from_file(str(file))
    return {} if own.token_to_id(tokenizer.mask_token) is not None else {"mask_token": None}


def save(
    model: Any, tokenizer: Any, out: Path, *, max_length: int, labels: Sequence[str], pair: bool,
    kind: str = CLASSIFICATION,
) -> None:  # fmt: skip
    """Writes a checkpoint: weights as safetensors, config, tokenizer and interface.

    Args:
        model: A model of this kind.
        tokenizer: Its fast tokenizer.
        out: Folder to write into.
        max_length: Longest input in tokens.
        labels: Class names, by index.
        pair: Whether it reads sentence pairs.
        kind: The kind of task.
    """
    with quiet():
        shapes.record(model)
        model.save_pretrained(out)
        save_tokenizer(tokenizer, out, max_length=max_length, labels=labels, pair=pair, kind=kind)


def save_like(model: Any, tokenizer: Any, source: Path, out: Path) -> None:
    """Writes a checkpoint that is used as another one is: with its labels and its longest input.

    Args:
        model: A model of the same kind.
        tokenizer: Its fast tokenizer.
        source: The checkpoint that it was made from.
        out: Folder to write into.
    """
    found = read_json(source / "interface.json")
    kind = found.get("kind", CLASSIFICATION)
    save(model, tokenizer, out, max_length=found["max_length"], labels=found["labels"], pair=found["pair"], kind=kind)


def save_tokenizer(
    tokenizer: Any, out: Path, *, max_length: int, labels: Sequence[str], pair: bool, kind: str = CLASSIFICATION
) -> None:
    """Writes the tokenizer's files and ``interface.json``, which names a kind other than classification."""
    # A truncation or padding set while training must not travel in the file: whoever runs it goes by the interface.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(out)
    _name_tokenizer_as_ever(out / "tokenizer_config.json")
    write_json(
        out / "interface.json",
        {
            "labels": list(labels),
            "max_length": max_length,
            "pad_id": tokenizer.pad_token_id,
            "pad_type_id": tokenizer.pad_token_type_id,
            "pair": pair,
        }
        | sides(tokenizer)
        | ({} if kind == CLASSIFICATION else {"kind": kind}),
    )


def sides(tokenizer: Any) -> dict[str, str]:
    """Return on which side a tokenizer cuts and pads, where that is not the right, as ``interface.json`` holds it."""
    known = {"truncation_side": tokenizer.truncation_side, "padding_side": tokenizer.padding_side}
    return {name: side for name, side in known.items() if side != "right"}


def _name_tokenizer_as_ever(path: Path) -> None:
    """Gives a tokenizer without a class of its own the name that transformers 4 knows too, and Optimum with it."""
    config = read_json(path)
    if config.get("tokenizer_class") == "TokenizersBackend":
        write_json(path, config | {"tokenizer_class": "PreTrainedTokenizerFast"})


def longest_input(config: Any, tokenizer: Any) -> int:
    """Return how many tokens an input may have: what the positions and the tokenizer allow, whichever is less."""
    limits = []
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - first_position(config.model_type, getattr(config, "pad_token_id", 0)))
    if tokenizer.model_max_length < UNLIMITED:
        limits.append(int(tokenizer.model_max_length))
    return min(limits, default=POSITIONS)


def check_length(config: Any, tokenizer: Any, max_length: int) -> None:
    """Checks that a model reads inputs of so many tokens.

    Raises:
        ModelError: It does not.
    """
    longest = longest_input(config, tokenizer)
    if max_length > longest:
        raise ModelError(
            f"max_length {max_length} is more than the {longest} tokens that this model reads",
            f"set max_length to {longest} or less",
        )


def model_inputs(model: Any, tokenizer: Any) -> tuple[str, ...]:
    """Names of the inputs that this model reads, in the order of its signature."""
    import inspect

    accepted = inspect.signature(model.forward).parameters
    wanted = set(tokenizer.model_input_names)
    if getattr(model.config, "type_vocab_size", 0) < 2:
        wanted.discard("token_type_ids")
    return tuple(name for name in INPUTS if name in wanted and name in accepted)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copies tokenizer files and config from one artifact folder to the next."""
    copy_files(source, [path.name for path in safe_folder(source, (*TOKENIZER_FILES, "config.json"))], out)


def count_parameters(model: Any) -> int:
    """Parameters of a PyTorch model, shared ones once; steps and levels of quantizers are none."""
    quantizers = (".weights.", ".reads.")
    named = model.named_parameters()
    return sum(parameter.numel() for name, parameter in named if not any(part in name for part in quantizers))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ModelError: The file is missing or is no JSON object.
    """
    return documents.read_object(path, ModelError, "copy or make it again")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, keys sorted, so that equal values are equal bytes."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps a vendor's warnings and progress bars off the user's terminal."""
    transformers = require("transformers", "torch")
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    noisy = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir", "onnxruntime")]
    levels = [log.level for log in noisy]
    for log in noisy:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(before)
        for log, level in zip(noisy, levels, strict=True):
            log.setLevel(level)
