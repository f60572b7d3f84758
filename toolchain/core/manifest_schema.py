"""The schema of a manifest, and the first problem that one has with it in a sentence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from toolchain.core.manifest_format import DIGEST_DIGITS, FORMAT, KEY_DIGITS, KINDS
from toolchain.core.schema import message

#: How much of a wrong value a message repeats.
SHOWN = 80


def _relative(name: str) -> str:
    """Return a file's name, relative and plain in every part.

    Raises:
        ValueError: It leads elsewhere, or has a character that no file of ours has.
    """
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\\" in name or ":" in name or not name.isprintable():
        raise ValueError("allowed are files inside of its folder")
    return name


def _known(kind: str) -> str:
    """Return a kind of artifacts.

    Raises:
        ValueError: There is none of this name.
    """
    if kind not in KINDS:
        raise ValueError(f"allowed are {', '.join(KINDS)}")
    return kind


Kind = Annotated[str, AfterValidator(_known)]


def _hexadecimal(digits: int) -> AfterValidator:
    """Return a check that a text has so many hexadecimal digits, and nothing else."""

    def check(text: str) -> str:
        if len(text) != digits or not set(text) <= set("0123456789abcdef"):
            raise ValueError(f"allowed are {digits} hexadecimal digits")
        return text

    return AfterValidator(check)


Key = Annotated[str, _hexadecimal(KEY_DIGITS)]
Digest = Annotated[str, _hexadecimal(DIGEST_DIGITS)]
Name = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_relative)]


class FileEntry(BaseModel):
    """What is known of a file of an artifact."""

    model_config = ConfigDict(strict=True, extra="forbid")

    sha256: Digest
    bytes: Annotated[int, Field(ge=0)]


class Parts(BaseModel):
    """What decides a result, as far as others read it; the key is made of all of it."""

    model_config = ConfigDict(strict=True, extra="allow")

    stage: str = ""
    technique: str = ""
    version: int = 0
    config: dict[str, Any] = {}
    inputs: list[str] = []
    libraries: dict[str, str | None] = {}


class Manifest(BaseModel):
    """A manifest as it stands in ``manifest.json``."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal[1, 2] = 1
    key: Key
    kind: Kind
    files: Annotated[dict[Name, FileEntry], Field(max_length=10_000)]
    parts: Parts
    parents: Annotated[list[Key], Field(max_length=10_000)]
    parent_digests: dict[Key, Digest] = {}
    metrics: dict[str, Any]
    observed: dict[str, Any] = {}
    seed: int | None = None
    label: str = ""
    environment: dict[str, Any] = {}
    commit: str | None = None
    notes: list[str] = []
    task: dict[str, Any] | None = None
    source_digest: str | None = None
    started: str = ""
    duration_s: float = 0.0
    taken_from: dict[str, Any] | None = None
    replaced: list[Digest] = []
    seal: Digest | None = None

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        if self.format == FORMAT and self.seal is None:
            raise ValueError("it has no seal")
        if unknown := set(self.parent_digests) - set(self.parents):
            raise ValueError(f"parent_digests names {min(unknown)}, which is no parent")
        if "manifest.json" in self.files:
            raise ValueError("files names manifest.json itself")
        return self


def problem(text: bytes) -> str:
    """Return the first thing that is wrong with a manifest's JSON, or '' if nothing is."""
    try:
        Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        value = repr(first.get("input"))
        value = value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
        wrong = message(first)
        if first["type"] in ("missing", "json_invalid"):
            return f"{where}: {wrong}" if where else wrong
        return f"{where[:SHOWN]}: {wrong}, not {value}" if where else wrong
    return ""
