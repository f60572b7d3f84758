"""Takes in a checkpoint, a graph or an engine as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.core.stage import Kind, Metrics, Stage

if TYPE_CHECKING:
    from toolchain.core.store import Artifact, Store
    from toolchain.pipeline.plan import Step
    from toolchain.pipeline.work import Work


def _perform(work: Work) -> Metrics:
    from toolchain.model import adopt
    from toolchain.model.history import applied, origin
    from toolchain.pipeline.history import origin_of, write_history

    config, out = work.step.config, work.out
    metrics = adopt.apply(config, out, work.context)
    own = {} if work.step.kind == "checkpoint" else origin(out)  # a graph or an engine knows its checkpoint
    write_history(out, applied(out), own or origin_of(str(config.path), adopt.identity(config)["files"]))
    return metrics


def _key_parts(step: Step, inputs: Sequence[Artifact], base: Path | None) -> dict[str, Any]:
    # What is adopted is known by its content: where it lies plays no part.
    from toolchain.measure import outside
    from toolchain.model import adopt, source

    config = adopt.identity(step.config)
    began = {} if config["files"] else {"source": source.resolve(step.source or "", base).identity}
    return {"config": config, **began, "outside": outside.VERSION}


def _check(work: Work, store: Store) -> Metrics:
    from toolchain.measure import outside
    from toolchain.model import adopt

    tokenizer = adopt.tokenizer_origin(work.step.config)
    compared = outside.check_tokens(tokenizer, work.out, work.context.dataset().dev.texts) if tokenizer else None
    return {"outside": compared} if compared else {}


def _models(step: Step) -> list[str]:
    return [step.source] if step.source and step.kind == "checkpoint" else []


def _kind_of(config: Any) -> Kind:
    from toolchain.model import adopt

    return adopt.kind_of(config.path)


STAGE = Stage(
    name="adopt", order=10, takes="source", gives="checkpoint", module="model.adopt", variant=True, once=True,
    perform=_perform, key_parts=_key_parts, check=_check, models=_models, kind_of=_kind_of,
)  # fmt: skip
