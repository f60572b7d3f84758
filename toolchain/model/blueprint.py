"""Traces modules of equal shape once: the graph of one, without its weights, takes the weights of the next.

Tracing takes most of an export, and depends on what a module computes, not on its weights: variants of a recipe
that are trained differently, or quantized in other ways, share a graph. Equal means equal in all that the tracer can
see: classes, plain attributes, configuration, buffers, and shapes, types and sharing of weights. A folder of such
graphs serves later processes, where the code that is traced and the versions of what traces it are equal too.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from toolchain.core import traces
from toolchain.core.errors import require

#: How many graphs are held. They hold no weights.
HELD = 16

#: What traces a module; their versions are part of a graph's name in a folder.
_LIBRARIES = ("torch", "transformers", "onnx", "onnxscript", "onnx-ir")

#: What a configuration tells that no computation reads.
_NAMES = ("_name_or_path", "name_or_path", "id2label", "label2id", "transformers_version")

#: Attributes of a module that are compared elsewhere, or are names.
_ELSEWHERE = ("_parameters", "_buffers", "_modules", *_NAMES)

_blueprints: OrderedDict[str, Any] = OrderedDict()


def traced(
    module: Any, inputs: Mapping[str, Any], settings: object, trace: Callable[[], Any], folder: Path | None = None,
    *, anew: bool = False,
) -> Any:  # fmt: skip
    """Return the exporter's program of a module, optimized.

    Args:
        module: A PyTorch module.
        inputs: What it is traced with, tensors by name.
        settings: Whatever else decides the graph.
        trace: Traces the module, and gives the exporter's program as it is before optimization.
        folder: Graphs that other processes traced (:mod:`toolchain.core.traces`); None for none.
        anew: Call ``trace`` in any case.
    """
    onnx = require("torch.onnx", "torch")
    key = _key(module, inputs, settings)
    blueprint, captured = None if anew else _blueprints.get(key), None
    if blueprint is None:
        name = _name(key, module) if folder else ""
        blueprint = None if anew else _read(folder, name, module.state_dict())
        if blueprint is None:
            program = trace()
            blueprint, captured = program.model, program.exported_program
            _write(folder, name, blueprint, module.state_dict())
        if key:
            _hold(key, blueprint, module.state_dict())
    # A copy in any case: it numbers the names of new values from 0, so that the bytes are the same either way.
    program = onnx.ONNXProgram(_weighted(blueprint, module.state_dict()), captured)
    program.optimize()
    return program


def _hold(key: str, model: Any, weights: Mapping[str, Any]) -> None:
    """Keep a graph, without its weights, and forget the oldest."""
    blueprint = model.clone()
    for name in weights.keys() & blueprint.graph.initializers.keys():
        blueprint.graph.initializers[name].const_value = None
    _blueprints.pop(key, None)
    _blueprints[key] = blueprint
    while len(_blueprints) > HELD:
        _blueprints.popitem(last=False)


def _read(folder: Path | None, name: str, weights: Mapping[str, Any]) -> Any | None:
    """Return the graph of that name in a folder, or None where there is none that takes weights alone from outside."""
    content = traces.read(folder, name) if folder and name else None
    if content is None:
        return None
    onnx, ir = require("onnx", "torch"), require("onnx_ir", "torch")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
        model = ir.from_proto(proto)
    except Exception:  # fits its digest, and is no graph: somebody else has put it there
        return None
    tensors = [value.const_value for name, value in model.graph.initializers.items() if name not in weights]
    attributes = [each for node in model.graph.all_nodes() for each in node.attributes.values()]
    tensors += [each.value for each in attributes if each.type == ir.AttributeType.TENSOR]
    return None if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors) else model


def _write(folder: Path | None, name: str, model: Any, weights: Mapping[str, Any]) -> None:
    """Keep a graph in a folder; its weights become references to a file that is never there."""
    if not folder or not name:
        return
    ir = require("onnx_ir", "torch")
    blueprint = model.clone()
    for weight in weights.keys() & blueprint.graph.initializers.keys():
        value = blueprint.graph.initializers[weight]
        value.const_value = ir.ExternalTensor("weights", 0, 0, value.dtype, shape=value.shape, name=weight)
    traces.write(folder, name, ir.to_proto(blueprint).SerializeToString())


def _name(key: str, module: Any) -> str:
    """Return what a graph is called in a folder, or '' if the code that is traced is not known."""
    if not key:
        return ""
    classes = {each for part in module.modules() for each in type(part).__mro__ if each is not object}
    files = {getattr(sys.modules.get(each.__module__), "__file__", None) for each in classes}
    if None in files:
        return ""
    ours = set(map(str, Path(__file__).parent.glob("*.py")))
    code = sorted(_digest(str(file)) for file in files | ours)
    versions = [platform.python_version(), *map(version, _LIBRARIES)]
    return hashlib.sha256(repr((key, code, versions)).encode()).hexdigest()


@functools.cache
def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _weighted(blueprint: Any, weights: Mapping[str, Any]) -> Any:
    """Return a copy of a graph that has these weights."""
    adapters = require("onnx_ir.tensor_adapters", "torch")
    model = blueprint.clone()
    for name in weights.keys() & model.graph.initializers.keys():
        model.graph.initializers[name].const_value = adapters.TorchTensor(weights[name].detach(), name=name)
    return model


def _key(module: Any, inputs: Mapping[str, Any], settings: object) -> str:
    """Return a digest of all that decides the graph, or '' if something is there that cannot be compared."""
    described = hashlib.sha256()
    try:
        for part in (*_parts(module), *((name, *_tensor(tensor)) for name, tensor in inputs.items()), settings):
            described.update(repr(part).encode())
    except (TypeError, RuntimeError):  # PyTorch's, of a buffer without bytes to read
        return ""
    return described.hexdigest()


def _parts(module: Any) -> Iterator[object]:
    first: dict[int, str] = {}
    saved = module.state_dict(keep_vars=True)
    for name, weight in saved.items():
        yield name, *_tensor(weight), first.setdefault(weight.data_ptr(), name)
    for name, buffer in module.named_buffers():
        if name in saved:
            continue  # an input of the graph, as weights are; others are constants of it
        yield name, hashlib.sha256(buffer.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    for name, part in module.named_modules():
        yield name, type(part).__module__, type(part).__qualname__
        for attribute, value in vars(part).items():
            if attribute not in _ELSEWHERE:
                yield attribute, _plain(value)


def _tensor(tensor: Any) -> tuple[object, ...]:
    return tuple(tensor.shape), str(tensor.dtype)


def _plain(value: Any) -> object:
    """Return a value as text or numbers.

    Raises:
        TypeError: It is none of the kinds that are compared.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, Mapping):
        return [(str(name), _plain(item)) for name, item in value.items()]
    if hasattr(value, "to_dict") and hasattr(value, "model_type"):
        described = {name: item for name, item in value.to_dict().items() if name not in _NAMES}
        return json.dumps(described, sort_keys=True, default=str)
    owner = getattr(value, "__self__", None)
    named = callable(value) and "<" not in getattr(value, "__qualname__", "<")  # no closure, which may hold anything
    if named and (owner is None or isinstance(owner, (ModuleType, require("torch.nn", "torch").Module))):
        return value.__module__, value.__qualname__
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
        return str(value)
    raise TypeError(f"{type(value).__qualname__} is not compared")
