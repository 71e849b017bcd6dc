"""A network that exists -> the rows of a picture of it.

Every shape, count and operation comes from one forward pass of the network itself, so that the
picture cannot disagree with the model.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from artist20.models import BasicBlock, Standardize, TimeStatistics

Kind = Literal["input", "front end", "convolution", "pooling", "linear", "other", "not drawn"]

# Modules that follow a convolution or a linear layer and are drawn as part of it.
_FOLDED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.ReLU, nn.GELU, nn.Dropout)

_REDUCTIONS = {"mean": "mean", "amax": "max", "max": "max", "sum": "sum"}
_MERGES = {"cat": "concatenated", "add": "added"}
_POOLS = {"avg_pool2d": "average pool", "max_pool2d": "max pool"}


@dataclass(frozen=True)
class Layer:
    """One row of an architecture diagram.

    Attributes
    ----------
    name : str
        Path of the module in the network, such as ``stage2.0``.
    kind : str
        What it is drawn as. ``not drawn`` holds the parameters that no other row counts.
    detail : str
        What the layer does, for people.
    output_shape : tuple of int
        Shape of its output without the batch axis.
    n_parameters, n_trainable : int
        Number of parameters, and how many of them a training step would change.
    shortcut : bool
        Whether its input is the output of an earlier row than the one before.
    """

    name: str
    kind: Kind
    detail: str
    output_shape: tuple[int, ...]
    n_parameters: int
    n_trainable: int
    shortcut: bool = False

    @property
    def frozen(self) -> bool:
        """Whether it has parameters and none of them is trained."""
        return self.n_parameters > 0 and self.n_trainable == 0


@dataclass
class _Call:
    """One call of a module: shapes with the batch axis, and the operations around and in it."""

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]
    before: list[str]
    output_shape: tuple[int, ...] = ()
    inside: list[str] = field(default_factory=list)


class _Trace(TorchFunctionMode):
    """Record the modules that a forward pass calls, and the functions called between them.

    Hooks see modules only; pooling and activations that a ``forward`` writes as functions would
    be missing from the picture without the function mode.
    """

    def __init__(self, names: dict[nn.Module, str]) -> None:
        super().__init__()
        self.names = names
        self.calls: list[_Call] = []
        self.operations: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        if name in _POOLS:
            kernel = kwargs["kernel_size"] if "kernel_size" in kwargs else args[1]
            if _size(kernel) != "1×1":
                self.operations.append(f"{_size(kernel)} {_POOLS[name]}")
        elif name != "__get__":  # an attribute, such as a shape
            self.operations.append(name)
        return func(*args, **kwargs)

    def enter(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Forward pre-hook."""
        shape = tuple(args[0].shape)
        self.calls.append(_Call(self.names[module], module, shape, self.operations))
        self.operations = []

    def leave(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Forward hook."""
        call = self.calls[-1]
        call.output_shape = tuple(output.shape)
        call.inside = self.operations
        self.operations = []


def describe(
    model: nn.Module,
    example: Tensor,
    *,
    input_name: str = "input",
    unused: Collection[str] = (),
) -> list[Layer]:
    """Run a network once and describe it layer by layer, in the order of the calls.

    A row is a child of ``model``; ``nn.Sequential`` is looked into, any other module with children
    (a residual block, say) is one row. Normalisation, activation and dropout belong to the row of
    the convolution or linear layer before them. Functions between modules that change the number
    of values, such as global pooling, get a row of their own.

    Parameters
    ----------
    model : nn.Module
        The network. It is left as it was: modes, gradients and hooks.
    example : Tensor
        One batch that the network accepts, first axis the batch, on the network's device.
    input_name : str
        What the example is, for the first row.
    unused : collection of str
        Children that the forward pass calls, but whose output the caller leaves alone, such as
        Cnn14's ``fc_audioset`` where only the embedding is used.

    Returns
    -------
    list of Layer
        The first row is the input. If the rows do not hold every parameter of ``model``, a last
        row of kind ``not drawn`` names and counts the others, so that the sum is always the
        network's own.

    Raises
    ------
    ValueError
        If ``unused`` names something that the network does not have.
    """
    units = dict(_units(model))
    if unknown := set(unused) - set(units):
        raise ValueError(f"{type(model).__name__} has no layer {', '.join(sorted(unknown))}")
    trace, output = _trace(model, example, {module: name for name, module in units.items()})

    layers = [Layer(input_name, "input", "", tuple(example.shape[1:]), 0, 0)]
    counted: set[int] = set()
    for call in trace.calls:
        layers = _add_functions(layers, call.before, call.input_shape)
        if call.name not in unused:
            layers = _add_call(layers, call, counted)
    if isinstance(output, Tensor):
        layers = _add_functions(layers, trace.operations, tuple(output.shape))

    others = {name: p for name, p in model.named_parameters() if id(p) not in counted}
    if others:
        owners = dict.fromkeys(_owner(name, units) for name in others)
        layers.append(Layer(", ".join(owners), "not drawn", "", (), *_count(others.values())))
    return layers


def _units(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            yield from _units(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _trace(model: nn.Module, example: Tensor, names: dict[nn.Module, str]) -> tuple[_Trace, object]:
    trace = _Trace(names)
    # Per module: a frozen backbone may be in evaluation mode inside a network that is training.
    training = {module: module.training for module in model.modules()}
    hooks = [module.register_forward_pre_hook(trace.enter) for module in names]
    hooks += [module.register_forward_hook(trace.leave) for module in names]
    try:
        model.eval()
        with torch.no_grad(), trace:
            output = model(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    return trace, output


def _add_call(layers: list[Layer], call: _Call, counted: set[int]) -> list[Layer]:
    parameters = [p for p in call.module.parameters() if id(p) not in counted]
    counted.update(map(id, parameters))
    n_parameters, n_trainable = _count(parameters)
    last = layers[-1]
    if isinstance(call.module, _FOLDED) and last.kind in ("convolution", "linear"):
        whole = replace(
            last,
            detail=f"{last.detail}, {_detail(call)}",
            n_parameters=last.n_parameters + n_parameters,
            n_trainable=last.n_trainable + n_trainable,
        )
        return [*layers[:-1], whole]
    kind = _kind(call.module)
    if kind == "other" and all(layer.kind in ("input", "front end") for layer in layers):
        kind = "front end"
    shape = call.output_shape[1:]
    shortcut = not call.before and call.input_shape[1:] != last.output_shape
    sizes = (n_parameters, n_trainable)
    return [*layers, Layer(call.name, kind, _detail(call), shape, *sizes, shortcut)]


def _add_functions(
    layers: list[Layer], operations: list[str], shape: tuple[int, ...]
) -> list[Layer]:
    """Account for functions between two modules; ``shape`` is what they leave, with the batch."""
    if not operations:
        return layers  # what comes next, if not of this shape, is on a shortcut
    last = layers[-1]
    before, after = last.output_shape, shape[1:]
    if math.prod(after) == math.prod(before):
        # The same number of values: a transposition or view, which the next row's shape shows,
        # or an activation.
        if last.kind in ("convolution", "linear") and {"relu", "relu_"} & set(operations):
            return [*layers[:-1], replace(last, detail=f"{last.detail}, ReLU")]
        return layers
    reductions = dict.fromkeys(_REDUCTIONS[name] for name in operations if name in _REDUCTIONS)
    merges = dict.fromkeys(_MERGES[name] for name in operations if name in _MERGES)
    reduced = " and ".join(reductions)
    n_copies = len(reductions) if "concatenated" in merges else 1
    if len(before) > 1 and after == (n_copies * before[0],):
        reduced = f"global {reduced}"
    elif after == (n_copies * math.prod(before[:-1]),):
        reduced = f"{reduced} over the last axis"
    detail = ", ".join([reduced, *merges])
    kind: Kind = "pooling" if math.prod(after) < math.prod(before) else "other"
    return [*layers, Layer(kind, kind, detail, after, 0, 0)]


def _kind(module: nn.Module) -> Kind:
    if any(isinstance(part, nn.Conv2d) for part in module.modules()):
        return "convolution"
    if any(isinstance(part, nn.Linear) for part in module.modules()):
        return "linear"
    if "Pool" in type(module).__name__:
        return "pooling"
    return "other"


def _detail(call: _Call) -> str:
    module = call.module
    match module:
        case nn.Conv2d():
            return _convolutions([module])
        case BasicBlock():
            text = _convolutions([module.conv1, module.conv2])
            projection = [m for m in module.shortcut if isinstance(m, nn.Conv2d)]
            shortcut = f"{_size(projection[0].kernel_size)} conv" if projection else "identity"
            return f"residual block: {text}; shortcut: {shortcut}"
        case nn.Linear():
            return f"linear {module.in_features} → {module.out_features}"
        case nn.MaxPool2d():
            return f"{_size(module.kernel_size)} max pool{_stride(module.stride)}"
        case nn.AvgPool1d():
            return f"average of {module.kernel_size[0]} neighbouring bins"
        case TimeStatistics():
            linear = f"linear {module.output.in_features} → {module.output.out_features}"
            return f"shortcut: mean, deviation, maximum, minimum over time; {linear}"
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return "batch norm"
        case nn.Dropout():
            return f"dropout {module.p:g}"
        case Standardize():
            return f"scale {len(module.mean)} features by the training data's mean and deviation"
    convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    if convolutions:
        pools = [operation for operation in call.inside if operation.endswith("pool")]
        return ", ".join([_convolutions(convolutions), *pools])
    windows = [part for part in module.modules() if isinstance(part, nn.Conv1d)]
    if windows:
        (length,), (hop,) = windows[0].kernel_size, windows[0].stride
        return f"{type(module).__name__}, window {length}, hop {hop}"
    text = type(module).__name__
    if len(call.input_shape) == len(call.output_shape) and call.input_shape != call.output_shape:
        text += f", {call.input_shape[-1]} → {call.output_shape[-1]}"
    return text


def _convolutions(convolutions: list[nn.Conv2d]) -> str:
    """Describe convolutions that are applied one after another."""
    first, last = convolutions[0], convolutions[-1]
    sizes = [_size(convolution.kernel_size) for convolution in convolutions]
    if len(sizes) == 1:
        text = f"{sizes[0]} conv"
    elif len(set(sizes)) == 1:
        text = f"{len(sizes)} convs {sizes[0]}"
    else:
        text = f"convs {', '.join(sizes)}"
    return f"{text}, {first.in_channels} → {last.out_channels}{_stride(first.stride)}"


def _size(value: int | tuple[int, ...]) -> str:
    height, width = (value, value) if isinstance(value, int) else value
    return f"{height}×{width}"


def _stride(value: int | tuple[int, ...]) -> str:
    height, width = (value, value) if isinstance(value, int) else value
    if height == width:
        return "" if height == 1 else f", stride {height}"
    return f", stride {height}×{width}"


def _count(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    """Return the number of parameters, and of those that are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in parameters]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)


def _owner(parameter_name: str, units: dict[str, nn.Module]) -> str:
    """Name the layer that a parameter belongs to, or the parameter if it belongs to none."""
    owners = (name for name in units if parameter_name.startswith(f"{name}."))
    return next(owners, parameter_name)
