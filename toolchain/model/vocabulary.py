"""Tokens of a tokenizer against rows of the model's embeddings: a token without a row fails far from its cause.

ONNX Runtime names a ``Gather``, training an index, and OpenVINO answers with whatever lies behind the table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain.core.errors import ModelError, require
from toolchain.core.vendor import vendor


def check(model: Any, tokenizer: Any, folder: Path) -> None:
    """Check that a model has an embedding for each of its tokenizer's tokens.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        folder: The tokenizer's folder. Its ``tokenizer.json`` counts where there is one: transformers adds the special
            tokens of the tokenizer's class, such as ``[MASK]``, to what it loads.

    Raises:
        ModelError: It does not.
    """
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    file = folder / "tokenizer.json"
    largest = largest_token(file) if file.is_file() else max(tokenizer.get_vocab().values(), default=0)
    check_rows(rows, largest, folder)


def check_rows(rows: int | None, largest: int, named: Path) -> None:
    """Check that a table of token embeddings has a row for each of its tokenizer's tokens.

    Args:
        rows: Rows of the table; None where they are not known.
        largest: The largest token id of the tokenizer.
        named: What an error names.

    Raises:
        ModelError: It does not.
    """
    if rows is not None and largest >= rows:
        raise ModelError(
            f"{named}: its tokenizer has token ids up to {largest}, and its embeddings have {rows} rows, for ids up to "
            f"{rows - 1}",
            f"tokens were added to the tokenizer alone: call model.resize_token_embeddings({largest + 1}), train, and "
            "save both; or take the tokenizer that the model was trained with",
        )


def largest_token(path: Path) -> int:
    """Return the largest token id of a ``tokenizer.json``, added tokens included.

    Raises:
        ModelError: The file is missing or damaged.
    """
    tokenizers = require("tokenizers", "torch")
    with vendor("cannot be used as a tokenizer", path, ModelError, "copy it again"):
        return int(max(tokenizers.Tokenizer.from_file(str(path)).get_vocab().values(), default=0))
