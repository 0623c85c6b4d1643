"""The outer optimizer: torch's fused AdamW, Adam or SGD on a rank's partition of θ, skipped if told so."""

from __future__ import annotations

import functools

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from ..config import OptimizerConfig
from .vector import ShardedVector


@functools.lru_cache(8)  # the step asks, and its log
def learning_rate(config: OptimizerConfig, step: int, max_train_steps: int) -> float:
    """The learning rate of a step, a pure function: nothing to save, nothing to restore."""
    placeholder = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = get_scheduler(
        config.lr_scheduler,
        placeholder,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=max_train_steps,
    )
    return config.learning_rate * scheduler.lr_lambdas[0](step)  # pyright: ignore[reportAttributeAccessIssue]


def ema_decay(decay: float, step: int) -> float:
    """diffusers' EMAModel: 0 in the first optimizer step (t = 0), min(decay, (1 + t) / (10 + t)) in later ones."""
    return min(decay, (1 + step) / (10 + step)) if step > 0 else 0.0


def vector_names(config: OptimizerConfig) -> list[str]:
    """What `OuterOptimizer.vectors` has once a step is done: as many vectors as long as θ are saved beside it."""
    moments = {"adamw": ["exp_avg", "exp_avg_sq"], "adam": ["exp_avg", "exp_avg_sq"]}
    of_sgd = ["momentum_buffer"] if config.momentum else []
    return moments.get(config.name, of_sgd) + (["ema"] if config.ema_decay is not None else [])


class OuterOptimizer:
    """Applies δ to θ. Elementwise, so its result does not depend on how θ is sharded."""

    def __init__(self, theta: ShardedVector, config: OptimizerConfig, max_train_steps: int):
        assert config.ema_decay != "auto", "fitted to the length first"
        self.config = config
        self._ema_decay = config.ema_decay
        self.max_train_steps = max_train_steps
        self._theta = theta
        self._parameter = nn.Parameter(theta.data)  # shares theta's memory
        self._optimizer = self._make([self._parameter])
        if config.name == "sgd" and config.momentum:
            # torch would make it, without filling it, in a first step even where that is skipped
            self._optimizer.state[self._parameter]["momentum_buffer"] = torch.zeros_like(theta.data)
        self.ema = theta.clone() if config.ema_decay is not None else None

    def _make(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        config = self.config
        if config.name == "sgd":
            return torch.optim.SGD(
                parameters,
                lr=config.learning_rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                fused=True,
            )
        kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
        return kind(
            parameters,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, delta: ShardedVector, step: int, skip: Tensor) -> None:
        """θ_{t+1} from θ_t and δ; where `skip` (0-dim, 0 or 1, on the device) is 1 nothing changes, moments included.

        `step` counts from 0.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step, self.max_train_steps)
        # torch's fused kernels leave everything as it was where found_inf is 1
        self._optimizer.found_inf = skip.to(torch.float32)  # pyright: ignore[reportAttributeAccessIssue]
        self._parameter.grad = delta.data
        self._optimizer.step()
        self._parameter.grad = None
        if self.ema is not None and self._ema_decay is not None:
            self.ema.lerp_(self._theta, (1 - skip.float()) * (1 - ema_decay(self._ema_decay, step)))

    def vectors(self) -> dict[str, ShardedVector]:
        """Everything here that a checkpoint must hold, elementwise; made on first use."""
        state = self._optimizer.state[self._parameter]
        named = {
            name: ShardedVector(self._theta.layout, value)
            for name, value in state.items()
            if isinstance(value, Tensor) and value.shape == self._theta.data.shape
        }
        return named | ({"ema": self.ema} if self.ema is not None else {})

    def num_updates(self) -> float:
        """Updates applied so far, skipped steps left out; Adam's bias correction needs it."""
        count = self._optimizer.state[self._parameter].get("step", 0.0)
        return float(count)

    def restore(self, vectors: dict[str, Tensor], num_updates: float) -> None:
        """Puts back what `vectors` and `num_updates` gave."""
        state = self._optimizer.state[self._parameter]
        for name, value in vectors.items():
            if name == "ema":
                assert self.ema is not None
                self.ema.data.copy_(value)
            else:
                state[name] = value.clone()
        if self.config.name != "sgd":
            state["step"] = torch.tensor(num_updates, dtype=torch.float32, device=self._theta.data.device)
