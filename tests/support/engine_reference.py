"""The one-process autograd reference that the engine is compared with.

It knows nothing of ZeRO, shards, kernels or methods: it is Algorithm 1 over whole tensors, with the ranks' sub-batches
accumulated one after the other in rank order.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from engine_cases import (
    DEVICE,
    GLOBAL_BATCH_SIZE,
    NUM_ITERATIONS,
    ToyBatch,
    at_level,
    fresh_weights,
    global_batch,
    make_module,
    micro_batches,
    mixtures,
    own_target,
    per_sample_loss,
)
from erasediff.trainer import EraseDiffConfig, FinetuneConfig, MOOConfig
from erasediff.trainer.config import MethodConfig, OptimizerConfig
from erasediff.trainer.methods.blindspot import BlindspotConfig
from erasediff.trainer.methods.esd import ESDConfig
from erasediff.trainer.methods.meta_erasediff import MetaEraseDiffConfig
from erasediff.trainer.methods.munba import MUNBaConfig
from erasediff.trainer.methods.neggrad import NegGradConfig
from erasediff.trainer.methods.restricted_gradient import RestrictedGradientConfig
from erasediff.trainer.methods.salun import SalUnConfig
from erasediff.trainer.methods.selective_amnesia import SelectiveAmnesiaConfig
from erasediff.trainer.methods.siss import SISSConfig
from torch import Tensor, nn

Tensors = dict[str, Tensor]


@dataclass
class ReferenceStep:
    delta: Tensors
    theta: Tensors
    moved: float  # ‖θ_{t+1} - θ_t‖
    lambda_t: float
    amplification: float  # max(1, λ‖∇L_f‖/‖δ‖): how rounding of ∇L_f shows in δ


class Reference:
    """Algorithm 1 in one process; fp64, or the arithmetic of another precision for a single step."""

    def __init__(self, world_size: int, precision: str = "fp64"):
        self._world_size = world_size
        self._precision = precision
        self._dtype = {"bf16": torch.bfloat16, "fp64": torch.float64}.get(precision, torch.float32)
        self._sums = torch.promote_types(self._dtype, torch.float32)
        self.module = make_module().to(self._dtype)

    def origin(self) -> Tensors:
        """θ_0."""
        return {name: value.to(self._sums) for name, value in make_module().state_dict().items()}

    def gradient(self, theta: Tensors, batch: ToyBatch) -> tuple[float, Tensors]:
        module = self.module
        module.load_state_dict(theta)
        total = {name: torch.zeros_like(value) for name, value in theta.items()}
        loss = 0.0
        for rank in range(self._world_size):
            for micro_batch in micro_batches(batch, rank, self._world_size):
                module.zero_grad()
                with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=self._precision == "bf16-autocast"):
                    losses = per_sample_loss(module, micro_batch, self._dtype)
                share = (losses * micro_batch.weights).sum() / GLOBAL_BATCH_SIZE
                share.backward()
                loss += share.item()
                for name, parameter in module.named_parameters():
                    if parameter.grad is not None:
                        total[name] += parameter.grad
        return loss, total

    def delta(self, theta: Tensors, iteration: int, config: MethodConfig) -> tuple[Tensors, float, float]:
        """(δ, λ_t, amplification)."""
        _, grad_r = self.gradient(theta, global_batch(iteration, True))
        if isinstance(config, FinetuneConfig):
            return grad_r, 0.0, 1.0
        forget = global_batch(iteration, False)
        if isinstance(config, NegGradConfig):
            loss_own, grad_own = self.gradient(theta, own_target(forget))
            weight_own = -1.0 if loss_own < config.max_loss else 0.0
            return combined(config.remain_weight, grad_r, weight_own, grad_own), 0.0, 1.0
        if isinstance(config, BlindspotConfig):
            _, grad_proxy = self.gradient(theta, self.told_by_proxy(forget, config))
            return combined(1 - config.alpha, grad_r, config.alpha, grad_proxy), 0.0, 1.0
        if isinstance(config, SISSConfig):
            pair = mixtures(global_batch(iteration, True), forget, config.forget_chance)
            (_, grad_x), (_, grad_a) = (self.gradient(theta, one) for one in pair)
            away = config.forget_norm * norm(grad_x) / norm(grad_a)
            return combined(1.0, grad_x, -away, grad_a), 0.0, 1.0
        loss_f, grad_f = self.gradient(theta, forget)
        if isinstance(config, ESDConfig):
            return grad_f, 0.0, 1.0
        if isinstance(config, MetaEraseDiffConfig):
            return self.meta_delta(theta, forget, grad_r, grad_f, config)
        if isinstance(config, SalUnConfig):
            mask = self.mask(config)
            delta = combined(config.remain_weight, grad_r, 1.0, grad_f)
            return {name: delta[name] * mask[name] for name in delta}, 0.0, 1.0
        if isinstance(config, SelectiveAmnesiaConfig):
            fisher, origin = self.fisher(config), self.origin()
            pull = {name: 2 * config.penalty * fisher[name] * (theta[name] - origin[name]) for name in theta}
            assert iteration == 0 or 0.1 < norm(pull) / norm(grad_f) < 10
            return combined(1.0, combined(config.remain_weight, grad_r, 1.0, grad_f), 1.0, pull), 0.0, 1.0
        if isinstance(config, RestrictedGradientConfig):
            along_f, along_r = dot(grad_r, grad_f) / dot(grad_f, grad_f), dot(grad_r, grad_f) / dot(grad_r, grad_r)
            parts = combined(1.0, grad_r, -along_f, grad_f), combined(1.0, grad_f, -along_r, grad_r)
            assert abs(dot(parts[0], grad_f)) + abs(dot(parts[1], grad_r)) < 1e-5 * norm(grad_r) * norm(grad_f)
            return combined(1.0, parts[0], 1.0, parts[1]), 0.0, 1.0
        if isinstance(config, MUNBaConfig):
            # as the paper's code has it, in the elements of the Gram matrix
            rr, rf, ff = dot(grad_r, grad_r), dot(grad_r, grad_f), dot(grad_f, grad_f)
            alpha_r = math.sqrt((rr * ff - rf * math.sqrt(rr * ff)) / (rr**2 * ff - rr * rf**2))
            alpha_f = (1 - rr * alpha_r**2) / (rf * alpha_r)
            return combined(alpha_r, grad_r, alpha_f, grad_f), 0.0, 1.0
        grad_g = grad_f
        if isinstance(config, MOOConfig):
            lambda_t = config.weight
        else:
            assert isinstance(config, EraseDiffConfig)
            g, difference = self.difference(theta, forget, loss_f, grad_f, config)
            if config.gradient_of_g == "first_order":
                grad_g = difference
            gg, gr = dot(grad_g, grad_g), dot(grad_g, grad_r)
            a_t = config.eta * (gg if config.barrier == "norm" else max(g, 0.0))
            lambda_t = max(0.0, (a_t - gr) / gg) if gg > 0 else 0.0
            lambda_t = min(lambda_t, config.lambda_cap or lambda_t)
        delta = {name: grad_r[name] + lambda_t * grad_g[name] for name in grad_r}
        return delta, lambda_t, max(1.0, lambda_t * norm(grad_f) / norm(delta))

    def meta_delta(
        self, theta: Tensors, forget: ToyBatch, grad_r: Tensors, grad_f: Tensors, config: MetaEraseDiffConfig
    ) -> tuple[Tensors, float, float]:
        """The multipliers by projected coordinate descent on the dual, until nothing moves."""
        phi, own = theta, own_target(forget)
        for _ in range(config.num_relearning_steps):
            _, grad_own = self.gradient(phi, own)
            phi = {name: phi[name] - config.relearning_rate * grad_own[name].sign() for name in phi}
        _, grad_phi = self.gradient(phi, forget)
        at, weights = [grad_f, grad_phi], [0.0, 0.0]
        for _ in range(2000):
            for i in (0, 1) if config.holds_theta else (1,):
                step = combined(1.0, combined(1.0, grad_r, weights[0], grad_f), weights[1], grad_phi)
                missing = config.eta * dot(at[i], at[i]) - dot(at[i], step)
                weights[i] = max(0.0, weights[i] + missing / dot(at[i], at[i]))
        weights = [min(weight, config.lambda_cap or weight) for weight in weights]
        delta = combined(1.0, combined(1.0, grad_r, weights[0], grad_f), weights[1], grad_phi)
        parts = sum(weight * norm(each) for weight, each in zip(weights, at, strict=True))
        return delta, weights[0], max(1.0, parts / norm(delta))

    def mask(self, config: SalUnConfig) -> Tensors:
        """1 for the weights whose summed gradient of D_f's own loss at θ_0 is largest, whatever the step."""
        theta = self.origin()
        batches = [own_target(global_batch(number, False)) for number in range(config.num_mask_batches)]
        sums = [self.gradient(theta, batch)[1] for batch in batches]
        saliency = {name: torch.stack([each[name] for each in sums]).sum(0).abs() for name in theta}
        whole = torch.cat([value.flatten() for value in saliency.values()])
        kept = whole.topk(int(config.saliency * len(whole))).indices
        chosen = torch.zeros_like(whole).index_fill(0, kept, 1.0).split([value.numel() for value in saliency.values()])
        return {name: one.view_as(saliency[name]) for name, one in zip(saliency, chosen, strict=True)}

    def told_by_proxy(self, forget: ToyBatch, config: BlindspotConfig) -> ToyBatch:
        """The batch with what fresh weights say of it after so many steps of AdamW on D_r."""
        proxy = make_module().to(self._dtype)
        proxy.load_state_dict(fresh_weights())
        optimizer = torch.optim.AdamW(proxy.parameters(), lr=config.proxy_learning_rate, weight_decay=0.0)
        for number in range(config.num_proxy_steps):
            _, gradient = self.gradient(proxy.state_dict(), global_batch(number, True))
            for name, parameter in proxy.named_parameters():
                parameter.grad = gradient[name]
            optimizer.step()
        with torch.no_grad():
            told = proxy(forget.x.to(self._dtype), forget.t, forget.labels, forget.uses_all)
        return dataclasses.replace(forget, target=told)

    def fisher(self, config: SelectiveAmnesiaConfig) -> Tensors:
        """The mean square of the gradients of D_r's samples, each at its levels, at θ_0."""
        theta = self.origin()
        total, count = {name: torch.zeros_like(value) for name, value in theta.items()}, 0
        for number in range(config.num_fisher_batches):
            batch = global_batch(number, True)
            for i in range(GLOBAL_BATCH_SIZE):
                self.module.load_state_dict(theta)
                self.module.zero_grad()
                levels = [at_level(batch.rows([i], [1.0]), level) for level in range(config.num_fisher_levels)]
                losses = [per_sample_loss(self.module, one, self._dtype) for one in levels]
                torch.cat(losses).mean().backward()
                count += 1
                for name, parameter in self.module.named_parameters():
                    if parameter.grad is not None:
                        total[name] += parameter.grad.square()
        return {name: value / count for name, value in total.items()}

    def difference(
        self, theta: Tensors, forget: ToyBatch, loss_f: float, grad_f: Tensors, config: EraseDiffConfig
    ) -> tuple[float, Tensors]:
        """g = L_f(θ) - L_f(φ^K), and ∇L_f(θ) - ∇L_f(φ^K)."""
        phi, grad_k, loss_k = theta, grad_f, loss_f
        for _ in range(config.num_inner_steps):
            phi = {name: phi[name] - config.xi * grad_k[name] for name in phi}
            loss_k, grad_k = self.gradient(phi, forget)
        return loss_f - loss_k, {name: grad_f[name] - grad_k[name] for name in grad_f}

    def steps(self, config: MethodConfig, optimizer: OptimizerConfig) -> list[ReferenceStep]:
        parameters = {name: nn.Parameter(value) for name, value in self.origin().items()}
        if optimizer.name == "sgd":
            outer: torch.optim.Optimizer = torch.optim.SGD(
                parameters.values(), lr=optimizer.learning_rate, momentum=optimizer.momentum
            )
        else:
            outer = torch.optim.AdamW(
                parameters.values(), lr=optimizer.learning_rate, weight_decay=optimizer.weight_decay
            )
        is_cosine = optimizer.lr_scheduler == "cosine"
        schedule = torch.optim.lr_scheduler.LambdaLR(
            outer, lambda step: 0.5 * (1 + math.cos(math.pi * step / 10)) if is_cosine else 1.0
        )
        steps = []
        for iteration in range(NUM_ITERATIONS):
            theta = {name: value.detach().clone() for name, value in parameters.items()}
            delta, lambda_t, amplification = self.delta(theta, iteration, config)
            for name, parameter in parameters.items():
                parameter.grad = delta[name]
            outer.step()
            schedule.step()
            after = {name: value.detach().clone() for name, value in parameters.items()}
            for parameter in parameters.values():
                parameter.data = parameter.data.float().to(self._sums)  # as θ is kept between two steps
            moved = norm({name: after[name] - theta[name] for name in theta})
            steps.append(ReferenceStep(delta, after, moved, lambda_t, amplification))
        return steps


def combined(weight_a: float, a: Tensors, weight_b: float, b: Tensors) -> Tensors:
    return {name: weight_a * a[name] + weight_b * b[name] for name in a}


def dot(a: Tensors, b: Tensors) -> float:
    return sum(float(a[name].double().cpu().flatten() @ b[name].double().cpu().flatten()) for name in a)


def norm(a: Tensors) -> float:
    return dot(a, a) ** 0.5


def distance(a: Tensors, b: Tensors) -> float:
    assert a.keys() == b.keys()
    return norm({name: a[name].double().cpu() - b[name].double().cpu() for name in a})
