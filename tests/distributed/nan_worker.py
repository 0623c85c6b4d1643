"""The command, with a NaN in the remain loss of rank 1 at step 4."""

from __future__ import annotations

import os
import sys

import torch
from erasediff.launch.cli import main
from erasediff.trainer.objectives.diffusion import DiffusionObjective
from erasediff.trainer.ranks.collectives import end_process

calls = 0
original = DiffusionObjective.loss


def loss(self: DiffusionObjective, model, batch):
    global calls
    calls += torch.is_grad_enabled()
    found = original(self, model, batch)
    # a step takes a gradient of L_r, then one of L_f
    return found * torch.nan if os.environ["RANK"] == "1" and calls == 2 * 4 + 1 else found


DiffusionObjective.loss = loss  # pyright: ignore[reportAttributeAccessIssue]
end_process(main(sys.argv[1:]))
