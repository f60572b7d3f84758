"""Kinds of artifacts, the format of manifests, and how long keys and digests are."""

from __future__ import annotations

KINDS = ("data", "checkpoint", "onnx", "engine", "evaluation", "timing", "sensitivity", "answers")

#: Manifests of format 1 have no seal and no digests of parents; they are read, and ``verify`` names them.
FORMAT = 2

#: Digits of a key and of a digest.
KEY_DIGITS, DIGEST_DIGITS = 32, 64
