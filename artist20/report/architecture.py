"""A network that exists -> the rows of a picture of it.

Shapes and numbers of parameters come from one forward pass of the network itself.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import nn
from torchinfo import summary

from artist20.models import LONG, BasicBlock, Standardize, TimeStatistics

Kind = Literal["input", "front end", "convolution", "pooling", "linear", "other"]

# Modules that follow a convolution or a linear layer and are drawn as part of it.
_FOLDED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.ReLU, nn.GELU, nn.Dropout)

# What Cnn14 (Kong et al. 2020) computes by functions, which are no modules.
CNN14_FUNCTIONS = {
    **{f"conv_block{i}": "2×2 average pool" for i in range(1, 6)},
    "pooling": "global mean and max, added",
    "fc1": "ReLU",
}


@dataclass(frozen=True)
class Layer:
    """One row of an architecture diagram."""

    name: str  # path of the module in the network, such as ``stage2.0``
    kind: Kind
    detail: str  # what the layer does, for people
    output_shape: tuple[int, ...]  # without the batch axis
    n_parameters: int = 0
    n_trainable: int = 0  # how many of them a training step would change
    shortcut: bool = False  # whether its input is the output of an earlier row than the one before

    @property
    def frozen(self) -> bool:
        """Whether it has parameters and none of them is trained."""
        return self.n_parameters > 0 and self.n_trainable == 0


def describe(
    model: nn.Module,
    input_shape: tuple[int, ...],
    input_name: str,
    functions: Mapping[str, str] | None = None,
) -> list[Layer]:
    """Run a network once and describe it layer by layer, in the order of the calls.

    A row is a child of ``model``; ``nn.Sequential`` is looked into, any other module with children
    (a residual block, say) is one row. Normalisation, activation and dropout belong to the row of
    the convolution or linear layer before them. Between two modules, functions that pool get a row
    of their own. The first row is the input, whose shape is without the batch axis. ``functions``
    says what is computed by functions that are no modules: in a row, by its name, or in the row
    ``pooling``. The network is moved to the meta device, where a pass has shapes and computes
    nothing.
    """
    functions = functions or {}
    names = dict(_units(model))
    example = torch.zeros(1, *input_shape, device="meta")
    info = summary(model.to("meta"), input_data=example, depth=8, mode="eval", verbose=0)
    rows = [Layer(input_name, "input", "", input_shape)]
    for call in info.summary_list[1:]:
        module = call.module
        if module not in names:
            continue
        before, after = tuple(call.input_size[1:]), tuple(call.output_size[1:])
        sizes = (call.num_params, call.trainable_params)
        last = rows[-1]
        if isinstance(module, _FOLDED) and last.kind in ("convolution", "linear"):
            rows[-1] = replace(
                last,
                detail=f"{last.detail}, {_detail(module)}",
                n_parameters=last.n_parameters + sizes[0],
                n_trainable=last.n_trainable + sizes[1],
            )
            continue
        pooled = len(before) < len(last.output_shape)
        if pooled:
            rows.append(Layer("pooling", "pooling", functions.get("pooling", ""), before))
        same_size = math.prod(before) == math.prod(last.output_shape)
        shortcut = not (pooled or same_size or last.kind == "input")
        name, kind = names[module], _kind(module)
        if kind == "other" and all(row.kind in ("input", "front end") for row in rows):
            kind = "front end"
        detail = ", ".join(filter(None, [_detail(module), functions.get(name)]))
        rows.append(Layer(name, kind, detail, after, *sizes, shortcut))
    called = {id(call.module) for call in info.summary_list}
    for module, name in names.items():
        if isinstance(module, TimeStatistics) and id(module) not in called:  # of other windows
            n_parameters = sum(parameter.numel() for parameter in module.parameters())
            detail = f"{_detail(module)}, of windows {LONG} times as long"
            n_outputs = module.output.out_features
            rows.append(Layer(name, "linear", detail, (n_outputs,), n_parameters, shortcut=True))
    return rows


def _units(module: nn.Module, prefix: str = "") -> Iterator[tuple[nn.Module, str]]:
    """List what rows are of, with their paths."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            yield from _units(child, f"{prefix}{name}.")
        elif not isinstance(child, nn.Identity):
            yield child, f"{prefix}{name}"


def _kind(module: nn.Module) -> Kind:
    if any(isinstance(part, nn.Conv2d) for part in module.modules()):
        return "convolution"
    if any(isinstance(part, nn.Linear) for part in module.modules()):
        return "linear"
    return "pooling" if "Pool" in type(module).__name__ else "other"


def _detail(module: nn.Module) -> str:
    match module:
        case BasicBlock():
            text = _convolutions([module.conv1, module.conv2])
            shortcut = "1×1 conv" if len(module.shortcut) else "identity"
            return f"residual block: {text}; shortcut: {shortcut}"
        case nn.Linear():
            return f"linear {module.in_features} → {module.out_features}"
        case nn.MaxPool2d():
            return f"{_size(module.kernel_size)} max pool{_stride(module.stride)}"
        case nn.AvgPool1d():
            (n_bins,) = np.broadcast_to(module.kernel_size, 1)
            return f"average of {n_bins} neighbouring bins"
        case TimeStatistics():
            lda = f"LDA {module.output.in_features} → {module.output.out_features}"
            return f"shortcut: statistics over time; {lda}"
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return "batch norm"
        case nn.Dropout():
            return f"dropout {module.p:g}"
        case Standardize():
            return f"scale {len(module.mean)} features by the training data's mean and deviation"
    if convolutions := [part for part in module.modules() if isinstance(part, nn.Conv2d)]:
        return _convolutions(convolutions)
    if windows := [part for part in module.modules() if isinstance(part, nn.Conv1d)]:
        (length,), (hop,) = windows[0].kernel_size, windows[0].stride
        return f"{type(module).__name__}, window {length}, hop {hop}"
    return type(module).__name__


def _convolutions(convolutions: list[nn.Conv2d]) -> str:
    """Describe convolutions that are applied one after another."""
    first, last = convolutions[0], convolutions[-1]
    many = f"{len(convolutions)} convs " if len(convolutions) > 1 else ""
    text = f"{many}{_size(first.kernel_size)}{'' if many else ' conv'}"
    return f"{text}, {first.in_channels} → {last.out_channels}{_stride(first.stride)}"


def _size(value: int | tuple[int, ...]) -> str:
    height, width = np.broadcast_to(value, 2)
    return f"{height}×{width}"


def _stride(value: int | tuple[int, ...]) -> str:
    height, width = np.broadcast_to(value, 2)
    if height != width:
        return f", stride {height}×{width}"
    return "" if height == 1 else f", stride {height}"
