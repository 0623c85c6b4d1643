"""The training loop: batches → gradients → δ → θ, and a line of metrics a step. It only sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...kernels.inner_products import first_non_finite
from ..config import OptimizerConfig, TrainConfig
from ..engine.optimizer import learning_rate
from ..engine.packet import Moment, PendingPacket
from ..engine.sharded_model import ShardedModel
from ..errors import Interrupted, LostRankError, OneRankError, TrainingError
from ..methods import Method, Update
from ..objectives.objective import Batches, Objective
from ..ranks import collectives, meeting
from ..ranks.watchdog import Watchdog
from .attempts import Attempt
from .checkpoint import Checkpoints
from .damage import LossGuard
from .peak import peak_bytes, reset_peak
from .progress import StepProgress
from .reading import BadSamples, Reader, Streams
from .reporting import Reports

# called on every rank with the number of steps done, 0 and resumed ones included; may predict, must not change anything
Watch = Callable[[int, ShardedModel], None]

# of a step's log, what is shown while the run goes on
_SHOWN = ("loss_r", "loss_f", "lambda_t", "samples_per_second")


class Loop:
    """Runs a method's steps on a model. All ranks make it and call `run` together."""

    def __init__(
        self,
        name: str,
        model: ShardedModel,
        method: Method,
        objective: Objective[Any],
        streams: Streams,
        train: TrainConfig,
        optimizer: OptimizerConfig,
        attempt: Attempt,
        checkpoints: Checkpoints,
        watchdog: Watchdog,
        watch: Watch | None = None,
        reports: Reports | None = None,
        *,
        max_loss_r_ratio: float | None = None,
    ):
        self._name = name
        self._model = model
        self._method = method
        self._objective = objective
        self._streams = streams
        self._train = train
        self._optimizer = optimizer
        self._attempt = attempt
        self._checkpoints = checkpoints
        self._watchdog = watchdog
        self._watch = watch
        self._reports = reports or Reports()
        self._bad_samples = BadSamples(train.max_bad_samples)
        self._max_loss_r_ratio = max_loss_r_ratio
        self._guard = LossGuard(None)

    def run(self) -> None:
        """From the newest checkpoint, or from the start, to the last step.

        Raises TrainingError at a NaN or Inf loss or gradient, unless such steps are to be skipped, where L_r has left
        its start too far behind, and where a checkpoint cannot be written; Interrupted once a checkpoint is saved
        because a rank was asked to stop.
        """
        train = self._train
        beginning = self._checkpoints.restore_newest(self._model)
        first_step = beginning.step
        self._attempt.begin(beginning.folder, first_step, has_dropout=self._model.has_dropout)
        self._guard = LossGuard(self._max_loss_r_ratio, self._attempt.earlier_metrics())
        reader = Reader(
            self._streams,
            self._objective,
            self._bad_samples,
            self._model.device,
            start=first_step,
            num_workers=train.dataloader_num_workers,
        )
        reset_peak(self._model.device)
        progress = StepProgress(self._name, first_step, train.max_train_steps)
        if beginning.folder is not None:
            progress.say(
                f"continues from {beginning.folder.parent.name}/{beginning.folder.name}, {first_step} of "
                f"{train.max_train_steps} steps done, as {self._attempt.folder.name}"
            )
        previous: _StepInFlight | None = None
        try:
            collectives.on_main(lambda: self._reports.begin(first_step))
            if beginning.folder is None:
                begun = Moment(self._model.device)
                self._method.prepare(self._model, lambda number: self._read_for_preparing(reader, number))
                self._check_prepared()
                self._attempt.note_preparing(Moment(self._model.device).seconds_since(begun))
            else:
                self._method.state = beginning.state
            if self._watch is not None:
                self._watch(first_step, self._model)
            for step in range(first_step, train.max_train_steps):
                current = self._step(step, reader)
                # the host looks at a step while the device works on the next one
                stop = previous is not None and self._finish(previous, progress)
                previous = current
                if self._watch is not None:
                    self._watch(step + 1, self._model)
                if stop or (train.checkpointing_steps and (step + 1) % train.checkpointing_steps == 0):
                    stop |= self._finish(previous, progress)
                    previous = None
                    self._checkpoints.save(self._model, step + 1, self._method.state)
                if stop:
                    self._checkpoints.wait()
                    meeting.reset()
                    raise Interrupted(f"stopped after {step + 1} steps, all saved; the same command continues")
            if previous is not None:
                self._finish(previous, progress)
            self._checkpoints.wait()
            used = self._streams.num_bytes_read, peak_bytes(self._model.device)
            self._attempt.note_use(*map(list, zip(*collectives.gather(used), strict=True)))
        except BaseException as error:
            on_every_rank = isinstance(error, TrainingError) and not isinstance(error, OneRankError | LostRankError)
            if on_every_rank or collectives.world_size() == 1:  # a checkpoint under way is still worth having
                with suppress(TrainingError):
                    self._checkpoints.wait()
            raise
        finally:
            reader.close()
            progress.close()
            self._reports.close()

    def _check_prepared(self) -> None:
        for name, vector in self._method.state.items():
            if collectives.sum_((~vector.data.isfinite()).sum().double()) > 0:
                raise TrainingError(
                    f"what the method made before its first step ({name}) is not finite; no model is written. Use "
                    "engine.precision = 'fp32', or look for what is wrong with the base model or the samples"
                )

    def _read_for_preparing(self, reader: Reader, number: int) -> Batches:
        if any(collectives.gather(meeting.is_asked())):  # there is no packet yet that would tell
            meeting.reset()
            raise Interrupted("stopped before the first step, nothing to save; the same command begins again")
        self._watchdog.beat(0, "reading its samples")
        batches = reader.at(number)
        self._watchdog.beat(0, "computing")
        return batches

    def _step(self, step: int, reader: Reader) -> _StepInFlight:
        begun = Moment(self._model.device)
        self._watchdog.beat(step, "reading its samples")
        batches = reader.next()
        self._watchdog.beat(step, "computing")
        every = self._train.descent_every
        diagnose = every > 0 and step % every == 0
        self._model.begin(step)
        update = self._method.step(self._model, batches.forget, batches.remain, step, diagnose=diagnose)
        packet = update.packet
        packet.extend(non_finite_parameter=first_non_finite(packet.by_parameter))
        self._clip(update)
        before = self._model.theta.clone() if update.observe is not None else None
        self._model.step(update.delta, step, update.skip)
        if update.observe is not None and before is not None:
            packet.extend(**update.observe(before.axpy_(-1.0, self._model.theta)))
        packet.extend(skipped=update.skip, meet=packet.meet)
        return _StepInFlight(step, begun, packet.to_host())

    def _clip(self, update: Update) -> None:
        if self._optimizer.max_grad_norm is None:
            return
        # rounding can take the sum below zero where δ vanishes
        norm = update.norm_squared().clamp(min=0).sqrt()
        clip = (self._optimizer.max_grad_norm / norm).clamp(max=1.0)
        update.delta.mul_(clip.float())
        update.packet.extend(clip=clip)

    def _finish(self, step: _StepInFlight, progress: StepProgress) -> bool:
        """Logs a step whose packet has reached the host; every rank reads the same and decides alike.

        Returns whether some rank asks all to stop. Raises TrainingError where the run cannot go on, on every rank.
        """
        packet = step.packet.read()
        wants_to_meet = packet.pop("meet") > 0
        values = {name: value for name, value in packet.items() if "/" not in name}
        groups: dict[str, dict[str, float | None]] = {}
        for name, value in packet.items():
            group, slash, member = name.partition("/")
            if slash:
                groups.setdefault(group, {})[member] = round(value, 4) if math.isfinite(value) else None
        seconds = step.packet.moment.seconds_since(step.begun)
        line = {"step": step.number} | self._method.explain(values) | self._use(step.number, seconds)
        self._attempt.log(line | groups)
        self._reports.log(step.number, line)
        if values["skipped"]:
            what = f"step {step.number}: {name_non_finite(values, self._model.parameter_names)}"
            if self._train.non_finite == "stop":
                raise TrainingError(
                    f"{what}; no model is written, and the newest checkpoint is as it was. "
                    "Lower optimizer.learning_rate, or set train.non_finite = 'skip'"
                )
            progress.say(f"{what}; skipped")
        damage = self._guard.exceeds(values)
        if damage is not None:
            raise TrainingError(
                f"step {step.number}: {damage}; no model is written. Lower {self._method.advice}"
                "optimizer.learning_rate, or set train.max_loss_r_ratio higher, or to 'none'"
            )
        progress.update(step.number, {key: line[key] for key in _SHOWN if key in line})
        return wants_to_meet and self._meet(progress)

    def _use(self, step: int, seconds: float) -> dict[str, float]:
        """What a step was taken with and what it took. Samples: of all ranks and losses; memory: this rank's."""
        losses = 1 if self._streams.forget is None else 2
        return {
            "learning_rate": learning_rate(self._optimizer, step, self._train.max_train_steps),
            "seconds": round(seconds, 4),
            "samples_per_second": round(losses * self._train.train_batch_size / seconds, 1) if seconds > 0 else 0.0,
            "peak_bytes": peak_bytes(self._model.device),
        }

    def _meet(self, progress: StepProgress) -> bool:
        """All ranks hear why some of them asked to meet; returns whether all are to stop."""
        stop = any(collectives.gather(meeting.is_asked()))
        meeting.met()
        news = self._bad_samples.tell()
        for line in news:
            progress.say(f"{line}; left out")
        if news:
            self._attempt.note_bad_samples(self._bad_samples.keys)
        return stop


@dataclass(frozen=True)
class _StepInFlight:
    number: int
    begun: Moment
    packet: PendingPacket


def name_non_finite(values: dict[str, float], parameter_names: Sequence[str]) -> str:
    """Which loss or gradient a packet shows to be NaN or Inf, and the first parameter with such a gradient."""
    names = {
        "loss_r": "the remain loss L_r is",
        "loss_f": "the forget loss L_f is",
        "loss_phi": "the forget loss at φ^K is",
        "dot_rr": "the gradient of the remain loss L_r holds",
        "dot_gg": "the gradient of the forget loss L_f holds",
        "dot_ff": "the gradient of the forget loss L_f holds",
        "dot_pp": "the gradient of the forget loss at φ^K holds",
    }
    parameter = int(values["non_finite_parameter"])
    where = f", first in the gradient of {parameter_names[parameter]}" if parameter >= 0 else ""
    for key, subject in names.items():
        value = values.get(key, 0.0)
        if not math.isfinite(value):
            return f"{subject} {'NaN' if math.isnan(value) else 'Inf'}{where}"
    return "δ overflows fp32"
