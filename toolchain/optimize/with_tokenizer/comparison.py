"""Compares the operators of a tokenizer with the tokenizer itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toolchain.core.errors import EngineError, first_line, require

#: Strings that no tokenizer of this kind may get wrong: nothing, white space, one letter, more than fits.
PLAIN = ("", " ", "a", "it 's good .", "very " * 600, "x" * 120)


#: Strings that operators may get wrong and that are only reported: case and accents beyond Latin, composed and
#: decomposed letters, scripts without spaces, emoji, controls, odd white space, and special tokens written out.
HARD = (
    "  two  spaces ",
    "a\tb\nc\r\nd",
    "na\xefve caf\xe9",
    "cafe\u0301",
    "\u0130stanbul stra\xdfe",
    "\u03a3\u03a4\u0399\u03a3 \u03bf\u03b4\u03cc\u03c2",
    "\u041c\u043e\u0441\u043a\u0432\u0430",
    "\u4f60\u597d\u4e16\u754c",
    "\ud55c\uad6d\uc5b4",
    "\u0939\u093f\u0928\u094d\u0926\u0940",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\xa0nbsp\u2003em\u3000wide",
    "zero\u200bwidth\ufeff",
    "\ufffd",
    "\ufb01ne \u2460 \xbd",
    "nul\x00byte",
    "[CLS] [SEP] [MASK] <s> </s>",
)


#: Texts of a batch that is compared.
_BATCH = 32


def differing(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[tuple[str, list[int], list[int]]]:
    """Texts of which a graph gives other ids than a tokenizer, with both, in batches and padded as it pads.

    Args:
        model: A graph from ``text`` to ``input_ids`` and, it may be, ``attention_mask``.
        tokenizer: What is right.
        texts: What is compared.

    Raises:
        EngineError: ONNX Runtime cannot run the graph.
    """
    ort, extensions = require("onnxruntime", "cpu"), require("onnxruntime_extensions", "text")
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.register_custom_ops_library(extensions.get_library_path())
    found = []
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for start in range(0, len(texts), _BATCH):
            part = texts[start : start + _BATCH]
            ids, *masks = session.run(None, {"text": np.array(part, dtype=object)})
            expected = [encoding.ids for encoding in tokenizer.encode_batch(list(part))]
            widths = masks[0].sum(axis=1).tolist() if masks else [len(row) for row in expected]
            rows = [row[:width].tolist() for row, width in zip(ids, widths, strict=True)]
            found += [(text, *pair) for text, *pair in zip(part, rows, expected, strict=True) if pair[0] != pair[1]]
    except Exception as error:  # ONNX Runtime's errors share no public base class
        raise EngineError(
            f"onnxruntime-extensions cannot run this tokenizer: {first_line(error)}",
            "leave the tokenizer apart, as it is without with_tokenizer",
        ) from error
    return found
