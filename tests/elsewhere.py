"""A second device without a GPU: tensors that are elsewhere and will not mix with those here.

A model that `moved` has brought there claims to be on the device "meta", but holds its numbers and
computes with them. Inside `watched()`, new tensors on that device go there, too, and whatever
mixes the two places fails, as it would with a GPU.
"""

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

PLACE = "meta"
BETWEEN = ("copy_", "index", "index_put_")  # what may read indices or values from the other place


class Elsewhere(torch.Tensor):
    """A tensor whose numbers, in `held`, only operations can reach."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Elsewhere":
        out = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=PLACE
        )
        out.held = held
        return out

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class watched(TorchDispatchMode):
    """Let new tensors be made elsewhere, and refuse operations on tensors in two places."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def moved(model: nn.Module) -> nn.Module:
    """Bring a model elsewhere, as `model.to("cuda")` would."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(Elsewhere(weight.detach()))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Elsewhere(buffer)
    return model


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name, target = func.overloadpacket.__name__, kwargs.get("device")
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, Elsewhere) for x in tensors)
    in_place = (
        name.endswith("_") and not name.startswith("_") and not isinstance(args[0], Elsewhere)
    )
    here = in_place or any(not isinstance(x, Elsewhere) and x.ndim > 0 for x in tensors)
    free = name in BETWEEN and (name == "copy_" or isinstance(args[0], Elsewhere))
    if there and here and not free:
        raise RuntimeError(f"{name} got a tensor that is elsewhere and one that is not.")
    args, kwargs = tree_map(lambda x: x.held if isinstance(x, Elsewhere) else x, (args, kwargs))
    if target is not None:
        there, kwargs["device"] = torch.device(target).type == PLACE, "cpu"
    out = func(*args, **kwargs)
    return (
        tree_map(lambda x: Elsewhere(x) if isinstance(x, torch.Tensor) else x, out)
        if there
        else out
    )
