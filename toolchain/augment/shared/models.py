"""Models that make text: masked language models, translators, causal models; from a folder or the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from toolchain.augment.shared.examples import AugmentConfig
from toolchain.core.errors import ModelError, ToolchainError, first_line, require
from toolchain.core.stage import Context
from toolchain.model import checkpoint, door, pretrained
from toolchain.model import source as model_source
from toolchain.model.config import read_config

Head = Literal["MaskedLM", "Seq2SeqLM", "CausalLM"]

_CALLED: dict[Head, str] = {
    "MaskedLM": "masked language model", "Seq2SeqLM": "sequence-to-sequence model", "CausalLM": "causal language model",
}  # fmt: skip


#: How the classes end that a model with this head is saved under.
_SAVED_AS: dict[Head, tuple[str, ...]] = {
    "MaskedLM": ("ForMaskedLM", "ForPreTraining"),
    "Seq2SeqLM": ("ForConditionalGeneration", "MTModel"),
    "CausalLM": ("ForCausalLM", "LMHeadModel"),
}


def identity(config: AugmentConfig, sources: Sequence[str]) -> dict[str, Any]:
    """What decides the result of an augmentation: its settings, and of the models that it names the content."""
    settings = {name: value for name, value in asdict(config).items() if value not in sources}
    return settings | {"models": [model_source.resolve(spec).identity for spec in sources]}


def unfit(sources: Sequence[str], head: Head) -> tuple[str, str] | None:
    """What is wrong with models that are named, and what to do, or None: said before anything runs.

    Args:
        sources: The models.
        head: What they are to compute; a model that is not here yet may turn out to be of another kind.
    """
    for spec in sources:
        try:
            found = model_source.resolve(spec)
            other = _of_another_kind(spec, found.folder, head) if found.folder else None
        except ModelError as error:
            return error.message, error.hint
        if found.kind == "scratch":
            return f"{spec}: a model from scratch makes no text", "name a trained model: a folder or a hub id"
        if other:
            return other
    return None


def _of_another_kind(spec: str, folder: Path, head: Head) -> tuple[str, str] | None:
    saved = read_config(folder).get("architectures") or ()
    if saved and not any(name.endswith(_SAVED_AS[head]) for name in saved):
        return f"{spec} is no {_CALLED[head]}: it is a {', '.join(saved)}", "name a model of that kind"
    return None


def load(spec: str, head: Head, context: Context) -> tuple[Any, Any]:
    """A model with this head, fp32 and in evaluation mode, and its tokenizer.

    Args:
        spec: A folder, hub id or ``package:`` source.
        head: What the model is to compute.
        context: Threads.

    Raises:
        ModelError: There is no such model, or it has no such head.
    """
    torch = require("torch", "torch")
    torch.set_num_threads(context.threads)
    if refusal := unfit([spec], head):
        raise ModelError(*refusal)
    folder = model_source.fetch(model_source.resolve(spec))
    if refusal := _of_another_kind(spec, folder, head):
        raise ModelError(*refusal)
    if (folder / "source.spm").is_file():
        require("sentencepiece", "translate")
    door.admit(folder)
    try:
        with checkpoint.quiet():
            model, info = pretrained.model(folder, head, dtype=torch.float32)
            tokenizer = pretrained.tokenizer(folder, slow=pretrained.SLOW)
    except (ToolchainError, KeyboardInterrupt):
        raise
    except BaseException as error:  # of transformers, torch and safetensors, which share no class
        raise ModelError(
            f"{spec} cannot be loaded as a {_CALLED[head]}: {first_line(error).partition(' Model type ')[0]}",
            "name a model of that kind that this version of transformers knows",
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{spec} is no {_CALLED[head]}: its file lacks {', '.join(missing[:3])}", "name a model of that kind"
        )
    return model.eval(), tokenizer


def generated(
    writer: tuple[Any, Any], texts: Sequence[str], *, batch_size: int, max_new_tokens: int, **sampling: Any
) -> list[str]:
    """What a model writes after, or in answer to, each text; in batches of like length.

    What a sequence-to-sequence model does not read to its end is answered with nothing.

    Args:
        writer: A causal or sequence-to-sequence model, and its tokenizer.
        texts: What it reads.
        batch_size: Texts at a time.
        max_new_tokens: Longest answer in tokens.
        sampling: Arguments of ``generate``.

    Raises:
        ModelError: A prompt, with the answer's room, is longer than the model reads.
    """
    torch, (model, tokenizer) = require("torch", "torch"), writer
    causal = not model.config.is_encoder_decoder
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left" if causal else "right"
    room = getattr(model.config, "max_position_embeddings", None) or 10**9
    lengths = [len(ids) for ids in tokenizer(list(texts))["input_ids"]]
    if causal and max(lengths) + max_new_tokens > room:
        raise ModelError(
            f"{max(lengths)} tokens to read and {max_new_tokens} to write: the model reads {room}",
            "fewer shots or a lower max_new_tokens",
        )
    order = sorted((index for index in range(len(texts)) if lengths[index] <= room), key=lengths.__getitem__)
    found = [""] * len(texts)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = tokenizer([texts[i] for i in indices], padding=True, return_tensors="pt")
        read = batch["input_ids"].shape[1]
        asked = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")}
        with torch.inference_mode(), checkpoint.quiet():
            written = model.generate(
                **asked, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id, **sampling
            )
        for index, row in zip(indices, written, strict=True):
            found[index] = tokenizer.decode(row[read:] if causal else row, skip_special_tokens=True).strip()
    return found


def sampling(temperature: float, top_p: float = 1.0) -> dict[str, Any]:
    """Arguments of ``generate``: it draws from softened probabilities; at a temperature of 0 it takes the largest."""
    if not temperature:
        return {"do_sample": False, "num_beams": 1}
    return {"do_sample": True, "num_beams": 1, "temperature": temperature, "top_p": top_p, "top_k": 0}
