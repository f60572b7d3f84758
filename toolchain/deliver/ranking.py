"""From what a run has made to the report: which evaluation, which timing, which failure belongs to which row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from toolchain import __version__
from toolchain.core import documents
from toolchain.core.errors import StoreError, ToolchainError
from toolchain.deliver import report, training
from toolchain.deliver.certification import objection
from toolchain.engines.shared.batching import BATCHING_KEY
from toolchain.engines.shared.contention import told
from toolchain.measure import records
from toolchain.pipeline.settings import plain

if TYPE_CHECKING:
    from toolchain.core.store import Artifact
    from toolchain.pipeline.plan import Row
    from toolchain.pipeline.run import Outcome


def rank(outcome: Outcome, command: str = "") -> report.Report:
    """Builds the report of a run.

    Args:
        outcome: A run, or a preview in which everything was a hit.
        command: What makes it again; may be empty.

    Raises:
        ToolchainError: No engine was evaluated.
    """
    plan = outcome.plan
    timing = outcome.artifacts.get(plan.time)
    record = records.timing(timing.path / "timing.json") if timing else {}
    rows, failed, not_run = [], [], []
    for row in plan.rows:
        if why := outcome.failed.get(row.build) or outcome.failed.get(row.evaluate):
            failed.append((row.name, why))
            continue
        if row.evaluate not in outcome.artifacts:
            not_run.append((row.name, "not run yet"))
            continue
        key = outcome.artifacts[row.build].key
        folder = outcome.artifacts[row.build].path
        built = documents.read_object(folder / "engine.json", StoreError, f"build it again: rm -r {folder}")
        rows.append(
            report.Row(
                model=row.model,
                variant=row.variant,
                engine=row.engine,
                seed=row.seed,
                engine_key=key,
                evaluation=outcome.artifacts[row.evaluate].path,
                timing=record.get("engines", {}).get(key),
                techniques=row.techniques,
                baseline=row.baseline,
                provider=row.provider,
                passes=[*_passes(outcome, row.build), *_missed(outcome, row)],
                fusion=built.get("fusion"),
                partly=built.get("partly_fused", ""),
                settings=engine_settings(built),
                training=_training(outcome, row.build),
                objection=objection(outcome, row.build),
                download_bytes=_download_bytes(outcome.artifacts[row.build], built),
            )
        )
    for row, why in plan.not_run:
        if error := outcome.failed.get(row.build):
            failed.append((row.name, error))
        elif row.build in outcome.artifacts:
            not_run.append((row.name, f"built, not run: {why}; {_built(outcome.artifacts[row.build].metrics)}"))
        else:
            not_run.append((row.name, "not built yet"))
    if not rows:
        apart = dict([*plan.not_applicable, *not_run]) or {"plan": "the recipe names no engine that can run"}
        reasons = "\n".join(dict.fromkeys(reason for _, reason in failed)) or "\n".join(
            f"{name}: {reason}" for name, reason in apart.items()
        )
        raise ToolchainError(f"{plan.recipe.name}: no engine was evaluated: {reasons}")
    if plan.time in outcome.failed:
        failed.append(("timing", outcome.failed[plan.time]))
    return report.build_report(
        rows,
        several_models=len(plan.recipe.models) > 1,
        weights=plain(plan.recipe.report.weights),
        speedup=plan.recipe.report.speedup,
        split=plan.recipe.report.split,
        margin=plan.recipe.report.margin,
        limits=plan.recipe.limits,
        name=plan.recipe.name,
        machine=record.get("machine"),
        settings=record or None,
        not_applicable=plan.not_applicable,
        not_run=not_run,
        failed=failed,
        notes=_notes(outcome),
        made=_made(outcome, command),
    )


def _download_bytes(engine: Artifact, built: Mapping[str, Any]) -> int:
    """Return the bytes of all files of an engine's folder that answering needs."""
    needed = {*built["files"], "engine.json", "interface.json", "tokenizer.json"}
    return sum(int(entry["bytes"]) for name, entry in engine.manifest["files"].items() if name in needed)


def _built(metrics: Mapping[str, Any]) -> str:
    """What is known of an engine that was built and not run."""
    facts = [f"{metrics['bytes'] / 1e6:,.1f} MB"]
    if products := metrics.get("products"):
        facts.append("products " + ", ".join(f"{count} in {kind}" for kind, count in products.items()))
    narrow, of = metrics.get("int8_products") or (0, 0)
    facts += [f"{narrow} of {of} quantized products computed so"] if of else []
    return "; ".join(facts)


def engine_settings(built: Mapping[str, Any]) -> dict[str, Any]:
    """What an engine is run with, by its ``engine.json``: its options, and how its batches are made."""
    return {**built.get("options", {}), **({BATCHING_KEY: built[BATCHING_KEY]} if BATCHING_KEY in built else {})}


def _made(outcome: Outcome, command: str) -> dict[str, Any]:
    """What a reader needs to make the report again, as it was when the engines were timed or, untimed, evaluated."""
    steps = (outcome.plan.time, *(row.evaluate for row in outcome.plan.rows))
    artifact = next(outcome.artifacts[step] for step in steps if step in outcome.artifacts)
    environment = artifact.manifest["environment"]
    versions = {"toolchain": __version__, "python": environment.get("python"), **environment.get("libraries", {})}
    return {
        "command": command,
        "versions": {name: version for name, version in versions.items() if version},
        "platform": environment.get("platform"),
        "instruction_sets": environment.get("instruction_sets", []),
        "commit": artifact.manifest.get("commit"),
    }


def _passes(outcome: Outcome, build: str) -> list[Any]:
    """Parity of each graph pass between the export and an engine, in order."""
    steps, passes = outcome.plan.steps, []
    step = steps[build]
    while step.inputs:
        step = steps[step.inputs[0]]
        if step.does.rewrites and "parity" in outcome.artifacts[step.id].metrics:
            passes.append(outcome.artifacts[step.id].metrics["parity"])
    return passes[::-1]


def _missed(outcome: Outcome, row: Row) -> list[dict[str, Any]]:
    """Return as a failed parity that an engine misses the dev accuracy of its training; empty where it does not."""
    evaluated = outcome.artifacts[row.evaluate]
    evaluation = records.evaluation(evaluated.path / "evaluation.json")
    task = evaluated.manifest["parts"].get("task")
    return training.failed_parity(_made_from(outcome, row.build), task, evaluation)


def _made_from(outcome: Outcome, build: str) -> list[Artifact]:
    """Return what an engine was made from, from its training or what was taken in on, in order."""
    artifacts: list[Artifact] = []
    steps = outcome.plan.steps
    step = steps[build]
    while step.inputs and not step.does.finetunes:
        step = steps[step.inputs[0]]
        if step.id not in outcome.artifacts:
            return []
        artifacts.append(outcome.artifacts[step.id])
    return artifacts[::-1]


def _training(outcome: Outcome, build: str) -> dict[str, Any]:
    """What it took to make an engine's checkpoint, all of its steps together: steps of training, time, machine."""
    plan, step = outcome.plan, outcome.plan.steps[build]
    steps, seconds = 0, 0.0
    machines: dict[str, None] = {}
    while step.inputs:
        step = plan.steps[step.inputs[0]]
        if step.does.augments:
            break  # it stands before finetune: no training is behind it
        if step.does.trains:
            manifest = outcome.artifacts[step.id].manifest
            steps += int(manifest["metrics"].get("steps", 0))
            seconds += float(manifest["duration_s"])
            machines[_machine(manifest["environment"])] = None
    return {"steps": steps, "minutes": seconds / 60, "machine": "; ".join(machines)} if machines else {}


def _machine(environment: Mapping[str, Any]) -> str:
    """The processor and how many cores of it, and the GPU where there is one."""
    machine = environment.get("machine", {})
    gpus = [str(gpu) for gpu in machine.get("gpus", ())]
    return ", ".join([f"{machine.get('physical_cores', '?')} cores of {machine.get('cpu', 'an unknown CPU')}", *gpus])


def _notes(outcome: Outcome) -> list[str]:
    """What the task said of its data; kept with the training so that an all-hit run need not load the data."""
    notes: dict[str, None] = {}
    if outcome.plan.only:
        of = len(outcome.plan.recipe.variants)
        notes[f"a part of the recipe, {len(outcome.plan.only)} of {of} variants: {', '.join(outcome.plan.only)}"] = None
    for step, artifact in outcome.artifacts.items():
        notes |= dict.fromkeys(artifact.manifest.get("notes", ()))
        if text := _contended(outcome.plan.steps[step].label, artifact):
            notes[text] = None
    return list(notes)


def _contended(label: str, artifact: Artifact) -> str:
    """What is to be said of an engine that was tuned, or a timing that was taken, beside busy programs."""
    if artifact.kind == "timing":
        return told(artifact.metrics.get("others_cpus"), "engines were timed", "--force time takes the times again")
    tuning = (artifact.metrics.get("tuning") or {}) if artifact.kind == "engine" else {}
    return told(tuning.get("others_cpus"), f"options of {label} were tuned", "--force build tunes again")
