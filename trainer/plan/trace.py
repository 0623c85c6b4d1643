"""What a pass holds in memory and computes: run on `meta`, where nothing is stored, for any number of samples."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

from ..engine.recomputing import Recomputing
from ..models.model import Model
from .on_meta import OnMeta

# a pass over so many samples: what is a multiple of this prime grows with their number, what is none does not
_NUM_SAMPLES = 1009


@dataclass(frozen=True)
class Trace:
    """A pass, operation by operation: bytes that it holds beside weights, inputs and the gradients it is done with."""

    fixed: np.ndarray
    """float64 [operations + 1]: weights cast, gradients of weights at work."""
    per_sample: np.ndarray
    """float64 [operations + 1]: to be multiplied by the samples."""
    arrivals: tuple[tuple[int, int], ...] = ()
    """(operations before it, trained parameter in the module's order) of each gradient, in time's order."""
    num_forward: int = 0
    """Of the operations, those before the backward pass."""
    forward_flops: float = 0.0
    """Of one sample."""
    backward_flops: float = 0.0
    """Of one sample, with what is computed again."""

    def held(self, num_samples: int) -> np.ndarray:
        """Bytes after each operation, and at the end."""
        return self.fixed + num_samples * self.per_sample


def trace_gradient(model: Model, precision: str, *, recomputed: float, on_cpu: bool) -> Trace:
    """The forward and the backward pass of a loss of the model's, which is on `meta`.

    precision: an `EngineConfig.precision`. recomputed: the share of blocks that make their activations again.
    Parameters that do not require a gradient count as frozen.
    """
    arithmetic = OnMeta(autocasts=precision == "bf16-autocast", on_cpu=on_cpu)
    recomputing = Recomputing(model.module, "all" if recomputed else "off", share=recomputed)
    # as torch's autocast does: blocks that compute again do it in the arithmetic of their forward pass
    again = functools.partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), arithmetic))
    for part in model.module.modules():
        if hasattr(part, "_gradient_checkpointing_func"):
            part._gradient_checkpointing_func = again  # pyright: ignore[reportArgumentType]
    with recomputing.at(inner=False):
        return _trace(model, precision, arithmetic, with_gradient=True)


def trace_forward(model: Model, precision: str, *, on_cpu: bool) -> Trace:
    """A forward pass without a gradient."""
    arithmetic = OnMeta(autocasts=precision == "bf16-autocast", on_cpu=on_cpu)
    return _trace(model, precision, arithmetic, with_gradient=False)


def trace_encoding(model: Model) -> Trace:
    """Of images, to what is noised, as it runs ahead of a step: in fp32."""
    shape = (_NUM_SAMPLES, model.channels, model.image_size, model.image_size)
    with torch.no_grad(), OnMeta(autocasts=False, on_cpu=False), _Held() as held:
        images = torch.empty(shape, device="meta")
        model.encode(images)
    return Trace(*held.arrays(), forward_flops=held.flops / _NUM_SAMPLES)


def _trace(model: Model, precision: str, arithmetic: OnMeta, *, with_gradient: bool) -> Trace:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    module = nn.Module.to(model.module, dtype)
    trained = [value for value in module.parameters() if value.requires_grad]
    inputs = model.blank_pass(_NUM_SAMPLES)
    held = _Held()
    arrivals: list[tuple[int, int]] = []

    def hook(number: int) -> Callable[[Tensor], None]:
        def taken(parameter: Tensor) -> None:
            arrivals.append((len(held.events), number))
            parameter.grad = None

        return taken

    hooks = [value.register_post_accumulate_grad_hook(hook(number)) for number, value in enumerate(trained)]
    target = torch.empty_like(inputs[0])
    with nullcontext() if with_gradient else torch.no_grad(), held:
        with arithmetic:
            output = model.predict(module, *inputs, dtype)
        loss = (target - output).square().flatten(1).mean(1).sum()
        forward_flops, num_forward = held.flops, len(held.events)
        if with_gradient:
            loss.backward()
    for one in hooks:
        one.remove()
    nn.Module.to(module, torch.float32)
    return Trace(
        *held.arrays(),
        arrivals=tuple(arrivals),
        num_forward=num_forward,
        forward_flops=forward_flops / _NUM_SAMPLES,
        backward_flops=(held.flops - forward_flops) / _NUM_SAMPLES,
    )


class _Held(TorchDispatchMode):
    """Bytes of the storages that operations inside have made and that are still there, and what was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = (0, 0)  # that do not grow with the samples, that do
        self.events: list[tuple[int, int]] = []
        self.flops = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {id(value.untyped_storage()) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        made = func(*args, **kwargs)
        for storage in (value.untyped_storage() for value in tree_leaves(made) if isinstance(value, Tensor)):
            if id(storage) not in given and id(storage) not in self._known:
                self._add(storage, id(storage), storage.nbytes())
        self.events.append(self.now)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=made)
        return made

    def _add(self, storage: Any, key: int, num_bytes: int) -> None:
        grows = num_bytes % _NUM_SAMPLES == 0

        def count(sign: int) -> None:
            fixed, growing = self.now
            change = sign * num_bytes
            self.now = (fixed, growing + change) if grows else (fixed + change, growing)

        def end(_: object) -> None:
            del self._known[key]
            count(-1)

        self._known[key] = weakref.ref(storage, end)
        count(1)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """`Trace.fixed` and `Trace.per_sample`, and at the end what is still there."""
        fixed, growing = np.array([*self.events, self.now], dtype=np.float64).T
        return fixed, growing / _NUM_SAMPLES
