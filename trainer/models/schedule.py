"""Noise schedules: where between data and noise a timestep stands, what is predicted there, and how that is sampled."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from ..errors import ConfigError

# samplers of one and the same training objective: they share DDPMScheduler's betas and prediction types
DDPM_SCHEDULERS = frozenset(
    {
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    }
)
# what a noise predictor was trained with; the rest of a scheduler's settings says how it is sampled
_TRAINED_WITH = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)


class Sampler(Protocol):
    """The way from noise to data, one deterministic step after the other."""

    timesteps: Iterable[Tensor]
    """In their order, 0-dim."""

    def begin(self, noise: Tensor) -> Tensor:
        """x at the first timestep, from noise of unit variance."""
        ...

    def step(self, output: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """x at the timestep after `t`, from the model's output at `t`."""
        ...


class Schedule(Protocol):
    """A noise schedule. x_0, ε and x_t are [B, *latent_shape], timesteps `t` [B]; all on one device."""

    @property
    def num_timesteps(self) -> int:
        """More than that many steps cannot be sampled."""
        ...

    @property
    def timestep_type(self) -> np.dtype: ...

    def draw(self, generator: np.random.Generator) -> float:
        """A timestep of training."""
        ...

    def levels(self, count: int) -> list[float]:
        """So many timesteps, evenly spread."""
        ...

    def noised(self, x_0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """x_t: data and noise as they are mixed at `t`."""
        ...

    def target(self, x_0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """What the model's output is compared with, eq. (1), in its own output space."""
        ...

    def sampler(self, num_steps: int) -> Sampler: ...


class DDPMSchedule:
    """x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε (arXiv 2006.11239, eq. 4), for models that predict ε or v (arXiv 2202.00512)."""

    timestep_type = np.dtype(np.int64)

    def __init__(self, scheduler: DDPMScheduler):
        self.scheduler = scheduler
        self._factors: dict[torch.device, tuple[Tensor, Tensor]] = {}  # [T] each

    @classmethod
    def load(cls, pipeline: Path, scheduler_class: str | None, where: str, *, clip_sample: bool = True) -> DDPMSchedule:
        """The schedule in a pipeline's folder; raises ConfigError, blaming `where`, for one of another kind.

        clip_sample: whether samples are clipped where the file does not say; latents must not be.
        """
        if scheduler_class not in DDPM_SCHEDULERS:
            raise ConfigError(
                f"{where}: its scheduler is a {scheduler_class}, which has no DDPM noise schedule; "
                f"known: {', '.join(sorted(DDPM_SCHEDULERS))}"
            )
        given = DDPMScheduler.load_config(pipeline, subfolder="scheduler")
        assert isinstance(given, dict)
        scheduler = DDPMScheduler.from_config({"clip_sample": clip_sample} | given)
        assert isinstance(scheduler, DDPMScheduler)
        if scheduler.config["prediction_type"] not in ("epsilon", "v_prediction"):
            raise ConfigError(
                f"{where}: prediction_type {scheduler.config['prediction_type']!r} is not supported; "
                "epsilon and v_prediction are"
            )
        return cls(scheduler)

    @property
    def num_timesteps(self) -> int:
        return self.scheduler.config["num_train_timesteps"]

    def draw(self, generator: np.random.Generator) -> int:
        return int(generator.integers(self.num_timesteps))

    def levels(self, count: int) -> list[float]:
        return ((np.arange(count) + 0.5) * self.num_timesteps / count).astype(np.int64).tolist()

    def noised(self, x_0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        signal, noise = self._signal_and_noise(t, x_0.ndim)
        return signal * x_0 + noise * epsilon

    def target(self, x_0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        if self.scheduler.config["prediction_type"] == "epsilon":
            return epsilon
        signal, noise = self._signal_and_noise(t, x_0.ndim)
        return signal * epsilon - noise * x_0

    @property
    def trained_with(self) -> dict[str, Any]:
        """What of the scheduler's settings decides the training."""
        return {name: self.scheduler.config[name] for name in _TRAINED_WITH}

    def sampler(self, num_steps: int) -> Sampler:
        """DDIM without noise (arXiv 2010.02502, eq. 12, σ = 0)."""
        return _DDIM(self.scheduler, num_steps)

    def sampled_like(self, other: DDPMSchedule) -> DDPMSchedule:
        """This schedule with the other's sampler: timestep spacing and clipping, whatever is not of the training."""
        own = self.trained_with
        config = dict(other.scheduler.config) | own
        # diffusers drops these names' values, as the defaults of another class of scheduler
        config["_use_default_values"] = [name for name in config.get("_use_default_values", ()) if name not in own]
        scheduler = DDPMScheduler.from_config(config)
        assert isinstance(scheduler, DDPMScheduler)
        return DDPMSchedule(scheduler)

    def _signal_and_noise(self, t: Tensor, num_dimensions: int) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 - ᾱ_t), [B, 1, …]."""
        if t.device not in self._factors:
            alphas_cumprod = self.scheduler.alphas_cumprod
            self._factors[t.device] = alphas_cumprod.sqrt().to(t.device), (1 - alphas_cumprod).sqrt().to(t.device)
        signal_T, noise_T = self._factors[t.device]
        shape = (-1, *[1] * (num_dimensions - 1))
        return signal_T[t].view(shape), noise_T[t].view(shape)


class _DDIM:
    def __init__(self, scheduler: DDPMScheduler, num_steps: int):
        ddim = DDIMScheduler.from_config(scheduler.config)
        assert isinstance(ddim, DDIMScheduler)
        ddim.set_timesteps(num_steps)
        self._scheduler = ddim
        self.timesteps: Iterable[Tensor] = ddim.timesteps

    def begin(self, noise: Tensor) -> Tensor:
        return noise

    def step(self, output: Tensor, t: Tensor, x: Tensor) -> Tensor:
        return self._scheduler.step(output, int(t), x, return_dict=False)[0]
