"""Runs Intel Neural Compressor in a process of its own; a script, started by path in any Python that has the package.

It imports nothing of this package: ``sys.argv[1]`` is a JSON file that says what to do, ``sys.argv[2]`` one for the
answer. Models are ONNX files, batches ``.npz`` files whose arrays are named ``NUMBER:INPUT``. What is done meanwhile
goes to the file ``progress``, a JSON object a line.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

#: Operators that only a quantized graph has.
_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "MatMulNBits"}


class MissingError(Exception):
    """The package cannot be imported here; the text is the reason."""


class NothingFoundError(Exception):
    """``fit`` gave None; the text is the error that it logged, or empty."""


class TooLateError(Exception):
    """The time was over before a graph was judged."""


class Progress:
    """Tells the parent what has been done, a line at a time.

    Args:
        path: The file that the parent reads.
    """

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115 - open until the process ends

    def say(self, advance: int, note: str = "") -> None:
        """Adds work done."""
        self._file.write(json.dumps({"advance": advance, "note": note}) + "\n")


class Batches:
    """A calibration loader as the package wants it: pairs of inputs and label, and a batch size.

    The size is 1 because the package counts its iterations by it, and a batch here is what one iteration reads.

    Args:
        path: The ``.npz`` file.
        progress: Told of each batch.
    """

    batch_size = 1

    def __init__(self, path: str, progress: Progress) -> None:
        self.batches = read_batches(path)
        self._progress = progress

    def __iter__(self) -> Iterator[tuple[dict[str, Any], int]]:
        for batch in self.batches:
            yield batch, 0
            self._progress.say(1)


class Judge:
    """Accuracy on dev sentences; keeps the best quantized graph on disk, whatever becomes of the process.

    A graph that loses at most ``max_drop`` is better than one that loses more; of two that do, the later one, because
    the search quantizes more as it goes on; of two that do not, the more accurate one.

    Args:
        tuning: ``dev``, ``labels``, ``max_drop``, ``seconds`` and the folder ``best`` of the request.
        progress: Told of each trial.
    """

    def __init__(self, tuning: dict[str, Any], progress: Progress) -> None:
        self._batches = read_batches(tuning["dev"])
        self._labels = np.array(tuning["labels"])
        self._drop = float(tuning["max_drop"])
        self._deadline = time.monotonic() + float(tuning["seconds"])
        self._folder = Path(tuning["best"])
        self._progress = progress
        self.baseline: float | None = None
        self.best: dict[str, Any] | None = None
        self.trials = 0
        self.late = False

    def __call__(self, model: Any) -> float:
        """The accuracy of a graph, of 0 to 1: what the package calls after each trial."""
        if time.monotonic() > self._deadline:
            self.late = True
            raise KeyboardInterrupt  # the one way to stop the search that it answers in order
        accuracy = self.accuracy(model)
        if not {node.op_type for node in model.graph.node} & _QUANTIZED:
            self.baseline = accuracy if self.baseline is None else self.baseline
            return accuracy
        self.trials += 1
        self._progress.say(1, f"trial {self.trials}: {accuracy:.4f} on dev, float {self.baseline or 0:.4f}")
        self.keep(model, accuracy)
        return accuracy

    def accuracy(self, model: Any) -> float:
        """The share of dev sentences whose label the graph gives."""
        import onnxruntime as ort

        session = ort.InferenceSession(model.SerializeToString(), ort.SessionOptions())
        names = [item.name for item in session.get_inputs()]
        found = [session.run(None, {name: batch[name] for name in names})[0].argmax(-1) for batch in self._batches]
        return float((np.concatenate(found) == self._labels).mean())

    def keep(self, model: Any, accuracy: float) -> None:
        """Writes the graph down if it is the best so far."""
        reached = self.baseline is not None and accuracy >= self.baseline - self._drop - 1e-9
        before = self.best
        better = before is None or (reached if reached or before["reached"] else accuracy > before["accuracy"])
        if better:
            name = f"trial-{self.trials}.onnx"
            (self._folder / name).write_bytes(model.SerializeToString())
            self.best = {"file": name, "accuracy": accuracy, "reached": reached}
        record = {**(self.best or {}), "baseline": self.baseline, "trials": self.trials}
        half = self._folder / "best.json.half"
        half.write_text(json.dumps(record), encoding="utf-8")
        half.replace(self._folder / "best.json")


class LastError(logging.Handler):
    """Remembers what the package logs as an error, which is all that it says before it gives None."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the last one that says something; how the search ended is in every log."""
        said = record.getMessage().removeprefix("Unexpected exception ").removesuffix(" happened during tuning.")
        if not said.startswith("Specified timeout"):
            self.text = said


def read_batches(path: str) -> list[dict[str, Any]]:
    """The batches of a file, in order."""
    found: dict[int, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            number, _, name = key.partition(":")
            found.setdefault(int(number), {})[name] = arrays[key]
    return [found[number] for number in sorted(found)]


def open_package(threads: int, workspace: str) -> None:
    """Imports the package, with what it misses in today's ``onnx`` and with sessions that keep to the threads.

    Raises:
        MissingError: It, or something that it needs, is not there.
    """
    try:
        import onnx
        import onnxruntime as ort

        if not hasattr(onnx, "mapping"):  # taken out of onnx 1.19
            mapping: Any = types.ModuleType("onnx.mapping")
            kinds = {kind: onnx.helper.tensor_dtype_to_np_dtype(kind) for kind in onnx.helper.get_all_tensor_dtypes()}
            mapping.TENSOR_TYPE_TO_NP_TYPE = kinds
            mapping.NP_TYPE_TO_TENSOR_TYPE = {kinds[kind]: kind for kind in sorted(kinds, reverse=True)}
            sys.modules["onnx.mapping"] = onnx.mapping = mapping

        class Session(ort.InferenceSession):  # type: ignore[misc]
            def __init__(self, model: Any, sess_options: Any = None, providers: Any = None, **rest: Any) -> None:
                options = sess_options or ort.SessionOptions()
                options.intra_op_num_threads = threads
                options.log_severity_level = 3
                super().__init__(model, options, ["CPUExecutionProvider"], **rest)

        ort.InferenceSession = Session
        from neural_compressor import quantization, set_workspace
        from neural_compressor.config import PostTrainingQuantConfig

        assert quantization.fit is not None
        assert PostTrainingQuantConfig is not None  # gone from 3.8 on, with all that knows ONNX
    except Exception as error:  # with a numpy or setuptools of another time it fails in many ways
        raise MissingError(f"{type(error).__name__}: {error}") from error
    set_workspace(workspace)


def smooth_well(groups: dict[str, str]) -> None:
    """Makes SmoothQuant take batches of several lengths, and give copies of one weight the same scales.

    The package stacks a tensor's batches, which must be of one shape then, and knows no weight that several layers
    read: the parent gives each layer a copy, and here the copies' inputs get the maxima of them all.

    Args:
        groups: Copy → the weight that it is a copy of.
    """
    from neural_compressor.adaptor.ox_utils.calibration import ONNXRTAugment
    from neural_compressor.adaptor.ox_utils.smooth_quant import ORTSmoothQuant

    maximum, collect = ONNXRTAugment._get_max_per_channel, ORTSmoothQuant._dump_op_info

    def of_any_shape(self: Any, datas: list[Any], percentile: float) -> Any:
        return maximum(self, [np.concatenate([data.reshape(-1, data.shape[-1]) for data in datas])], percentile)

    def of_all_copies(self: Any, *arguments: Any, **settings: Any) -> None:
        collect(self, *arguments, **settings)
        readers: dict[str, set[str]] = {}
        for tensor, nodes in self.tensors_to_node.items():
            for node in nodes:
                readers.setdefault(groups.get(node[1][1], node[1][1]), set()).add(tensor)
        for tensors in readers.values():
            largest = np.maximum.reduce([self.max_vals_per_channel[tensor] for tensor in tensors])
            self.max_vals_per_channel.update(dict.fromkeys(tensors, largest))

    ONNXRTAugment._get_max_per_channel = of_any_shape
    ORTSmoothQuant._dump_op_info = of_all_copies


def range_as_asked() -> None:
    """Makes an activation's range be found in the way that is asked for the product that reads it.

    The package asks the node that writes it, which here is never one that it quantizes, and so takes the extremes
    whatever it has been told.
    """
    from neural_compressor.adaptor.ox_utils.calibration import ONNXRTAugment

    find = ONNXRTAugment.get_activation_tensors_calib_range

    def of_readers(self: Any, q_config: dict[str, Any] | None = None) -> Any:
        known = dict(q_config or {})
        nodes = self.model_wrapper.model.graph.node
        writers = {output: node.name for node in nodes for output in node.output}
        for node in nodes:
            asked, writer = known.get(node.name), writers.get(node.input[0]) if node.input else None
            if isinstance(asked, dict) and writer and not isinstance(known.get(writer), dict):
                known[writer] = {"activation": asked["activation"]}
        return find(self, known if q_config is not None else None)

    ONNXRTAugment.get_activation_tensors_calib_range = of_readers


def main() -> None:
    """Does what the request says and writes the answer."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    open_package(request["threads"], request["workspace"])
    import onnx
    from neural_compressor import quantization
    from neural_compressor.config import AccuracyCriterion, PostTrainingQuantConfig, TuningCriterion

    heard = LastError()
    logging.getLogger("neural_compressor").addHandler(heard)
    smooth_well(request["groups"])
    range_as_asked()
    progress = Progress(request["progress"])
    progress.say(0)
    tuning, settings = request["tuning"], dict(request["settings"])
    judge = Judge(tuning, progress) if tuning else None
    if judge:
        # timeout 0 ends the search at the first graph that meets the criterion, and max_trials ends it at all events.
        settings["tuning_criterion"] = TuningCriterion(timeout=0, max_trials=tuning["trials"])
        settings["accuracy_criterion"] = AccuracyCriterion(
            criterion="absolute", tolerable_loss=float(tuning["max_drop"])
        )
    found = quantization.fit(
        onnx.load(request["model"]),
        PostTrainingQuantConfig(**settings),
        calib_dataloader=Batches(request["calibration"], progress) if request["calibration"] else None,
        eval_func=judge,
    )
    if judge and not judge.best:
        if found is not None:  # all in floating point, which is no trial
            judge.keep(found.model, judge.accuracy(found.model))
        elif judge.late:
            raise TooLateError
    if found is None and not (judge and judge.best):
        raise NothingFoundError(heard.text)
    if not judge:
        onnx.save(found.model, request["output"])
    ended = heard.text if found is None and judge and not judge.late else ""
    Path(sys.argv[2]).write_text(json.dumps({"ended_by": ended}), encoding="utf-8")


if __name__ == "__main__":
    main()
