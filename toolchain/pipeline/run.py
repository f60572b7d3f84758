"""Executes a plan: each step is a hit, or is run and published; stops cleanly, and resumes where it stopped."""

from __future__ import annotations

import logging
import subprocess
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from toolchain.core import failure, limits, traces
from toolchain.core.errors import DamagedError, StoreError, ToolchainError
from toolchain.core.launcher import processes
from toolchain.core.log import logger
from toolchain.core.processors import physical_cores
from toolchain.core.stage import Context
from toolchain.core.store import Artifact, Store, key_of
from toolchain.measure.machine import environment
from toolchain.model import source as model_source
from toolchain.pipeline import keys, teaching
from toolchain.pipeline.history import without_folders
from toolchain.pipeline.plan import Plan, Step
from toolchain.pipeline.work import work_of

#: How long a process waits for another process of the same launch to publish, in seconds.
WAIT_S = 24 * 3600


@dataclass
class Outcome:
    """What became of a plan.

    Attributes:
        plan: The plan.
        artifacts: By step id.
        made: Ids of the steps that were run now.
        failed: Step id → why it, or what it needs, failed.
        damaged: Step id → what is wrong with its artifact, where nothing makes it again.
        codes: Exit codes of the errors.
        task: The task, data loaded if anything needed it.
        rank: Of this process in its launch; only the first one, 0, has something to show.
        seconds: Wall time.
    """

    plan: Plan
    task: keys.Task
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    codes: set[int] = field(default_factory=set)
    rank: int = 0
    seconds: float = 0.0

    @property
    def hits(self) -> int:
        """How many steps were in the store already."""
        return len(self.artifacts) - len(self.made)

    def refuse_damaged(self, again: str) -> None:
        """Refuse to print figures of artifacts that are not what was published.

        Args:
            again: What makes them again.

        Raises:
            DamagedError: One is damaged.
        """
        if self.damaged:
            raise DamagedError("; ".join(self.damaged.values()), f"make it again: {again}")

    @property
    def exit_code(self) -> int:
        """0, 1 when something failed, 3 when nothing but gates did."""
        return min(self.codes, default=1) if self.failed else 0


def execute(plan: Plan, store: Store, *, force: Collection[str] = (), judge: keys.Task | None = None) -> Outcome:
    """Runs a plan.

    Args:
        plan: The plan.
        store: Where artifacts are looked up and published.
        force: Stages to do again although the store has their result.
        judge: The task to evaluate engines on, where it is not the one that they are made for.

    Returns:
        Artifacts and failures; a step that fails stops only what needs it.

    Raises:
        StoreError: The store cannot be used: nothing more can be done.
        KeyboardInterrupt: Ctrl-C; what was published stays, training state is kept.
    """
    with store.used(make=True):
        return _execute(plan, store, force, judge)


def _execute(plan: Plan, store: Store, force: Collection[str], judge: keys.Task | None) -> Outcome:
    started = time.monotonic()
    rank = processes()[0]
    outcome = Outcome(plan, keys.Task(plan.recipe), rank=rank)
    if rank:
        logger.setLevel(logging.WARNING)  # the first process says what is done
    noted = set[str]()
    teaching.check(plan, outcome.task, _fresh(plan, store, outcome.task))
    left, ran = set[str]() if rank else _left(outcome, store, force, judge), 0
    for step in plan.steps.values():
        left.discard(step.id)
        blocked = next((outcome.failed[i] for i in step.inputs if i in outcome.failed), None)
        inputs = [outcome.artifacts[i] for i in step.inputs if i in outcome.artifacts]
        if step.does.partial:
            # Engines that were built and evaluated are timed; the others are named.
            inputs = _sound(plan, outcome, step)
            blocked = None if inputs else next(iter(outcome.failed.values()), None)
        if blocked:
            outcome.failed[step.id] = blocked
            continue
        task = judge if judge and step.does.judges else outcome.task
        try:
            if rank:
                outcome.artifacts[step.id] = _assist(step, inputs, store, task, plan, step.stage in force)
            else:
                ran += 1
                title = f"[{ran}/{ran + len(left)}] {step.stage:8s} {step.label}"
                artifact, made = _one(step, inputs, store, task, plan, step.stage in force, title)
                for note in artifact.manifest.get("notes", ()):
                    if note not in noted:
                        logger.warning("    note: %s", note)
                    noted.add(note)
                ran -= not made  # a hit is not counted
                outcome.artifacts[step.id] = artifact
                outcome.made += [step.id] if made else []
        except StoreError:
            raise
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # native libraries raise what is no Exception, and some end the program
            explained = store.explains(error)
            if explained:
                raise explained from error
            understood = failure.explain(error)
            outcome.failed[step.id] = f"{_spoken(step)}: {understood}"
            outcome.codes.add(understood.exit_code)
            logger.info("    failed: %s", understood.message.splitlines()[0])  # the end of the run says it in full
    if not rank:
        store.sweep()
    outcome.seconds = time.monotonic() - started
    return outcome


def preview(
    plan: Plan, store: Store, force: Collection[str] = (), judge: keys.Task | None = None, *, compare: bool = True
) -> tuple[Outcome, dict[str, str]]:
    """What a run would find and do, without doing it; its arguments are those of :func:`execute`.

    Args:
        plan: The plan.
        store: Where artifacts are looked up.
        force: Stages that would be done again.
        judge: The task to evaluate engines on.
        compare: Whether files are compared with their digests; a damaged artifact then is noted, and would be made
            again. Without, a damaged manifest is an error.

    Returns:
        An outcome with the hits, and for every step ``hit``, ``run``, or ``run (after its inputs)``. Where engines are
        missing, because they failed or have not been run, the timing of the others is among the hits all the same.
    """
    outcome = Outcome(plan, keys.Task(plan.recipe))
    return outcome, _look(outcome, store, force, judge, compare)


def _left(outcome: Outcome, store: Store, force: Collection[str], judge: keys.Task | None) -> set[str]:
    """Return the ids of the steps that are to run, and say how many are not; all, where the keys are not known yet."""
    steps = outcome.plan.steps
    try:
        status = _look(Outcome(outcome.plan, outcome.task), store, force, judge, True)
    except StoreError:
        raise
    except Exception:  # the step itself meets it again, and says what is wrong
        return set(steps)
    hits = sum(found == "hit" for found in status.values())
    if hits:
        logger.info("%d of %d steps from the store", hits, len(steps))
    return {step for step, found in status.items() if found != "hit"}


def _look(
    outcome: Outcome, store: Store, force: Collection[str], judge: keys.Task | None, compare: bool
) -> dict[str, str]:
    """Return the status of every step of an outcome's plan, and put the hits into the outcome."""
    plan, status = outcome.plan, dict[str, str]()
    for step in plan.steps.values():
        complete = all(i in outcome.artifacts for i in step.inputs)
        inputs = [outcome.artifacts[i] for i in step.inputs if i in outcome.artifacts]
        if step.does.partial:
            inputs = _sound(plan, outcome, step)
        if not complete and (not step.does.partial or not inputs):
            status[step.id] = "run (after its inputs)"
            continue
        task = judge if judge and step.does.judges else outcome.task
        key = key_of(keys.parts(step, inputs, task, plan.recipe, _threads(plan, step)))
        found, damage = _look_up(store, step, key) if compare else (store.find(step.kind, key), "")
        if damage:
            outcome.damaged[step.id] = f"{_spoken(step)}: {damage}"
        known = "run (forced)" if found and step.stage in force else "hit" if found else "run"
        known = "run (damaged)" if damage else known
        status[step.id] = known if complete else "run (after its inputs)"
        if found:
            outcome.artifacts[step.id] = found
    return status


def _look_up(store: Store, step: Step, key: str) -> tuple[Artifact | None, str]:
    """Return a step's artifact where it is what was published, else None; and what is wrong with it."""
    try:
        found = store.find(step.kind, key)
        if found is not None:
            store.check(found)
    except DamagedError as error:
        return None, error.message
    return found, ""


def _fresh(plan: Plan, store: Store, task: keys.Task) -> set[str]:
    """Return the ids of the steps that take in what the store does not have yet."""
    fresh = set()
    for step in plan.steps.values():
        if step.does.adopts:
            with suppress(ToolchainError):  # what is wrong with it is said when it is taken in
                key = key_of(keys.parts(step, [], task, plan.recipe, _threads(plan, step)))
                fresh |= {step.id} if store.find(step.kind, key) is None else set()
    return fresh


def _sound(plan: Plan, outcome: Outcome, step: Step) -> list[Artifact]:
    """The engines among a timing's inputs that were built and evaluated."""
    sound = {row.build for row in plan.rows if {row.build, row.evaluate} <= set(outcome.artifacts)}
    return [outcome.artifacts[i] for i in step.inputs if i in sound]


def _threads(plan: Plan, step: Step | None = None) -> int:
    """Return the threads that a step computes with.

    A training takes every core, or ``OMP_NUM_THREADS``, whatever engines are timed with: other numbers of threads give
    other weights, under one key. One that is tuned for a number of threads has it in its key.
    """
    cores = max(1, physical_cores() // processes()[1])
    if step is not None and step.does.trains and not keys.is_tuned(step):
        return min(cores, limits.whole_number("OMP_NUM_THREADS", 0, first=True) or cores)
    return plan.recipe.benchmark.threads or cores


def _one(
    step: Step, inputs: list[Artifact], store: Store, task: keys.Task, plan: Plan, force: bool, title: str
) -> tuple[Artifact, bool]:
    """The step's artifact, and whether it was made now."""
    threads = _threads(plan, step)
    _fetch(step, plan)
    parts = keys.parts(step, inputs, task, plan.recipe, threads)
    key = key_of(parts)
    found, damage = _look_up(store, step, key)
    if damage:
        logger.warning("%s is damaged, and is made again: %s", _spoken(step), damage)
    if found and not force:
        if keys.changed_source(step, found):
            logger.warning(
                "%s %s: made by another version of %s's source under the same VERSION; --force %s makes it again",
                step.stage, step.label, step.technique.name, step.stage,
            )  # fmt: skip
        logger.debug("%s %s  hit %s", step.stage, step.label, key[:12])
        return found, False
    for artifact in inputs:
        store.check(artifact)
    logger.info("%s", title)
    with store.claim(step.kind, key, again=force or bool(damage)) as claim:
        if claim is None:
            again = store.find(step.kind, key)
            if again is None:
                raise StoreError(f"{step.kind} {key[:12]} vanished while another process published it", "run again")
            return again, False
        clock = keys.Clock()
        context = Context(
            work=claim.work, seed=step.seed or 0, threads=threads, dataset=task.data,
            traces=traces.folder_of(store.root),
        )  # fmt: skip
        work = work_of(step, inputs, claim.out, context, plan)
        metrics = step.does.perform(work)
        metrics |= step.does.check(work, store)
        facts, record, notes = environment(), task.record, (*task.notes, *metrics.pop("notes", ()))
        if step.kind == "engine":  # which is deployed: host and folders of this machine stay in the other manifests
            facts["machine"] = {name: fact for name, fact in facts["machine"].items() if name != "host"}
            record = record if record == without_folders(record) else None
            notes = notes[len(task.notes) :]
        made = keys.manifest(
            step.label, step.technique, parts, inputs, metrics,
            seed=step.seed, clock=clock, environment=facts, commit=_commit(), notes=notes, task=record,
        )  # fmt: skip
        artifact = store.publish(claim, made)
    logger.info("    done in %.1f s  %s", made["duration_s"], key[:12])
    return artifact, True


def _spoken(step: Step) -> str:
    """What failed: the stage, and what a person calls the step."""
    return step.label if step.stage in step.label.split(" · ") else f"{step.stage} {step.label}"


def _fetch(step: Step, plan: Plan) -> None:
    """Downloads hub models before a step's key is computed, so that the key holds their files."""
    for spec in step.does.models(step):
        resolved = model_source.resolve(spec, plan.recipe.base)
        if resolved.kind == "hub":
            model_source.fetch(resolved)


def _assist(step: Step, inputs: list[Artifact], store: Store, task: keys.Task, plan: Plan, force: bool) -> Artifact:
    """What a process of a launch does besides the first: its share of the training, and waiting for the rest."""
    threads = _threads(plan, step)
    key = key_of(keys.parts(step, inputs, task, plan.recipe, threads))
    found, _ = _look_up(store, step, key)
    if (force or found is None) and step.does.trains:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "out").mkdir()
            work = store.partial() / key / "work"
            context = Context(work=work, seed=step.seed or 0, threads=threads, dataset=task.data)
            step.does.perform(work_of(step, inputs, Path(folder) / "out", context, plan))
    deadline = time.monotonic() + WAIT_S
    old = found.manifest["started"] if found and force else None
    while found is None or found.manifest["started"] == old:
        if time.monotonic() > deadline:
            raise StoreError(f"the first process has not published {step.label} within {WAIT_S} s")
        time.sleep(0.2)
        found, _ = _look_up(store, step, key)
    return found


@cache
def _commit() -> str | None:
    """The git commit of this package's source, when it is a checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def quiet_libraries() -> None:
    """Keeps libraries' own log lines off stderr; theirs come as errors of ours."""
    for name in ("torch", "transformers", "onnxscript", "onnx_ir", "accelerate", "datasets", "httpx", "filelock"):
        logging.getLogger(name).setLevel(logging.ERROR)
