"""The diffusion objectives: eq. (1) on D_r, eq. (2) on D_f, for class-conditional and unconditional noise predictors.

The losses are means over elements of (target - prediction)², in the model's own output space: ε for epsilon models, v
for v-prediction models.

Shapes: B samples of a micro-batch, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...shards.streaming.stream import SampleBatch
from ..config import EraseDiffConfig, MethodConfig, MOOConfig
from ..engine.sharded_model import ShardedModel
from ..models.unet2d import DiffusionModel
from ..randomness import sample_generator


@dataclass(frozen=True)
class DiffusionBatch:
    """A micro-batch of noised samples on the model's device, everything random in it drawn."""

    x_t_BCHW: Tensor
    timesteps_B: Tensor
    labels_B: Tensor | None  # c, what the trained model is told; the null class where it was dropped
    target_BCHW: Tensor | None  # what the trained model's output is compared with; None until the rl target is computed
    weights: Tensor  # [B]
    teacher_labels_B: Tensor | None = None  # c_m of the rl target


class DiffusionObjective:
    """Turns samples into noised micro-batches, and those into per-sample losses."""

    def __init__(
        self,
        model: DiffusionModel,
        device: torch.device,
        *,
        seed: int,
        label_drop: float,
        forget_label_drop: float = 0.0,
        method: MethodConfig | None = None,
        remain_labels: Sequence[int] = (),
        forward_batch_size: int | None = None,
    ):
        self._model = model
        self._device = device
        self._seed = seed
        self._label_drop = label_drop
        self._forget_label_drop = forget_label_drop
        self._forgetting = method if isinstance(method, EraseDiffConfig | MOOConfig) else None
        self._remain_labels = np.array(sorted(remain_labels), dtype=np.int64)
        self._forward_batch_size = forward_batch_size
        alphas_cumprod = model.scheduler.alphas_cumprod
        self._signal_T = alphas_cumprod.sqrt().to(device)
        self._noise_T = (1 - alphas_cumprod).sqrt().to(device)
        self._num_timesteps: int = model.scheduler.config["num_train_timesteps"]

    def remain_batches(self, samples: SampleBatch) -> list[DiffusionBatch]:
        """Micro-batches of D_r: x_t, t, and the target of eq. (1)."""
        return self._batches(samples, "remain", self._label_drop)

    def forget_batches(self, samples: SampleBatch) -> list[DiffusionBatch]:
        """Micro-batches of D_f; with the rl target, `with_forget_targets` completes them."""
        return self._batches(samples, "forget", self._forget_label_drop)

    def _batches(self, samples: SampleBatch, purpose: str, label_drop: float) -> list[DiffusionBatch]:
        num_samples = len(samples.labels)
        size = self._forward_batch_size or num_samples
        return [
            self._noised(samples, slice(start, start + size), purpose, label_drop)
            for start in range(0, num_samples, size)
        ]

    def _noised(self, samples: SampleBatch, rows: slice, purpose: str, label_drop: float) -> DiffusionBatch:
        x_0_BCHW = torch.from_numpy(samples.images[rows])
        labels_B = samples.labels[rows].copy()
        teacher_labels_B = np.empty_like(labels_B)
        timesteps_B = np.empty_like(labels_B)
        epsilon_BCHW = np.empty(x_0_BCHW.shape, dtype=np.float32)
        uniform_BCHW = np.empty(x_0_BCHW.shape, dtype=np.float32)
        forgetting = self._forgetting if purpose == "forget" else None
        for i, position in enumerate(samples.positions[rows]):
            # one generator a sample, always drawn from in this order: no setting changes another's draws
            generator = sample_generator(self._seed, purpose, int(position))
            timesteps_B[i] = generator.integers(self._num_timesteps)
            generator.standard_normal(dtype=np.float32, out=epsilon_BCHW[i])
            drop = generator.random() < label_drop
            if forgetting is not None and forgetting.target == "noise":
                generator.random(dtype=np.float32, out=uniform_BCHW[i])
            elif forgetting is not None:
                teacher_labels_B[i] = self._other_class(labels_B[i], generator)
            if drop:
                labels_B[i] = self._model.null_class

        def on_device(array: np.ndarray | Tensor) -> Tensor:
            return torch.as_tensor(array).to(self._device, non_blocking=True)

        timesteps, x_0, epsilon = on_device(timesteps_B), _scaled(on_device(x_0_BCHW)), on_device(epsilon_BCHW)
        signal = self._signal_T[timesteps].view(-1, 1, 1, 1)
        noise = self._noise_T[timesteps].view(-1, 1, 1, 1)
        x_t = signal * x_0 + noise * epsilon
        target: Tensor | None
        if forgetting is None:
            is_v = self._model.prediction_type == "v_prediction"
            target = signal * epsilon - noise * x_0 if is_v else epsilon
        else:
            target = on_device(uniform_BCHW) if forgetting.target == "noise" else None
        return DiffusionBatch(
            x_t_BCHW=x_t,
            timesteps_B=timesteps,
            labels_B=on_device(labels_B) if self._model.num_classes else None,
            target_BCHW=target,
            weights=on_device(samples.weights[rows]),
            teacher_labels_B=on_device(teacher_labels_B) if target is None else None,
        )

    def _other_class(self, label: int, generator: np.random.Generator) -> int:
        """c_m: the anchor, or uniform among the remaining classes without c."""
        assert self._forgetting is not None
        if self._forgetting.anchor is not None:
            return self._forgetting.anchor
        others = self._remain_labels[self._remain_labels != label]
        return int(others[generator.integers(len(others))])

    @torch.no_grad()
    def with_forget_targets(self, model: ShardedModel, batches: list[DiffusionBatch]) -> list[DiffusionBatch]:
        """ε_f of eq. (2), computed once at θ_t and held through φ^K; a forward pass with rl, nothing with noise."""
        if self._forgetting is None or self._forgetting.target == "noise":
            return batches
        if self._forgetting.teacher == "frozen":
            with model.reference():
                return [self._with_rl_target(model, batch) for batch in batches]
        return [self._with_rl_target(model, batch) for batch in batches]

    def _with_rl_target(self, model: ShardedModel, batch: DiffusionBatch) -> DiffusionBatch:
        target = self._predict(model, batch, batch.teacher_labels_B)
        return replace(batch, target_BCHW=target)

    def _predict(self, model: ShardedModel, batch: DiffusionBatch, labels_B: Tensor | None) -> Tensor:
        """The model's output [B, C, H, W] in fp32."""
        x_t = batch.x_t_BCHW.to(model.working_dtype)
        conditions = {} if labels_B is None else {"class_labels": labels_B}
        return model.predict(x_t, batch.timesteps_B, return_dict=False, **conditions)[0].float()

    def loss(self, model: ShardedModel, batch: DiffusionBatch) -> Tensor:
        """‖target - output‖² / CHW of each sample [B]: eq. (1) for remain batches, eq. (2) for forget batches."""
        assert batch.target_BCHW is not None, "with_forget_targets comes first"
        output = self._predict(model, batch, batch.labels_B)
        return (batch.target_BCHW - output).square().flatten(1).mean(1)


def _scaled(images: Tensor) -> Tensor:
    """Pixels (uint8) as fp32 in [-1, 1], rounded as `transform.normalise` rounds; others as they are."""
    return (images.float() - 127.5) / 127.5 if images.dtype == torch.uint8 else images
