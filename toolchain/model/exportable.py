"""Whether a family of models can be exported, tried on a small model of the same config before one is trained.

Training takes minutes to hours, and a family that PyTorch cannot export is of no use after it. Families that are known
to work are not tried; those that are known not to are refused without it (:data:`toolchain.model.heads.UNSERVED`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import kinds
from toolchain.core.errors import MissingPackageError, ModelError, ToolchainError, first_line, require
from toolchain.core.log import logger
from toolchain.core.stage import Context
from toolchain.model import checkpoint, export, pretrained
from toolchain.model.config import read_config

#: Families whose exports were compared with PyTorch: by tests, or by ``benchmarks/heads.py``.
KNOWN = (
    "albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "mobilebert",
    "modernbert", "mpnet", "nomic_bert", "roberta", "roformer", "squeezebert", "xlm-roberta",
)  # fmt: skip

#: Rows and tokens: the first shape is traced, all are compared.
_SHAPES = ((2, 9), (1, 5), (3, 24))

#: Largest |Δlogit| that is rounding.
_TOLERANCE = 1e-3


def check(folder: Path, tokenizer: Any, context: Context) -> None:
    """Export and run a model of one layer with the config of a folder, unless its family is known to work.

    Args:
        folder: Model folder.
        tokenizer: Its tokenizer, which decides the inputs.
        context: Gives the folder for the file and the number of threads.

    Raises:
        ModelError: It cannot be exported, or the graph answers something else.
    """
    family = str(read_config(folder).get("model_type"))
    if family in KNOWN:
        return
    logger.info("    %s: trying whether the family %s can be exported, before it is trained", folder.name, family)
    try:
        differences = _differences(folder, tokenizer, context)
    except MissingPackageError:
        raise
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError, ToolchainError) as error:
        raise ModelError(
            f"{folder} is of the family {family}, which cannot be exported for texts of any length: "
            f"{first_line(error)[:300]}",
            f"take an encoder of a family that was tried: {', '.join(KNOWN)}",
        ) from error
    if not max(differences) <= _TOLERANCE:
        raise ModelError(
            f"{folder} is of the family {family}, whose ONNX graph differs from PyTorch by {max(differences):.3g}",
            f"take an encoder of a family that was tried: {', '.join(KNOWN)}",
        )


def _differences(folder: Path, tokenizer: Any, context: Context) -> list[float]:
    """Return the largest |Δlogit| between PyTorch and ONNX Runtime at each shape."""
    torch = require("torch", "torch")
    kind = kinds.get(context.dataset().kind)
    with checkpoint.quiet():
        config = pretrained.config(folder)
        config.num_hidden_layers = 1
        model = pretrained.auto_class(kind.HEAD).from_config(config, dtype=torch.float32, trust_remote_code=False)
        model.set_attn_implementation("eager")
    names = checkpoint.model_inputs(model, tokenizer)
    wrapper = export.outputs_only(model.eval(), names, kind).eval()
    batches = [("x".join(map(str, shape)), _batch(shape, names, config.vocab_size)) for shape in _SHAPES]
    with torch.inference_mode():
        for _, inputs in batches:  # what PyTorch itself cannot compute is found without tracing it
            wrapper(*inputs.values())
    with tempfile.TemporaryDirectory(prefix="tried-", dir=context.work) as out:
        path = Path(out) / "model.onnx"
        opset = export.Config().opset
        program = export.trace(wrapper, batches[0][1], names, opset, folder, context.traces, kind=kind)
        program.save(str(path))
        return [float(np.max(found)) for found in export.distances(path, wrapper, batches, context.threads)]


def _batch(shape: tuple[int, int], names: tuple[str, ...], words: int) -> dict[str, Any]:
    torch = require("torch", "torch")
    drawn = torch.randint(min(10, words - 1), words, shape, generator=torch.Generator().manual_seed(0))
    fills = {"attention_mask": torch.ones_like(drawn), "token_type_ids": torch.zeros_like(drawn)}
    return {name: drawn if name == "input_ids" else fills[name] for name in names}
