"""A forget target of its own: twice what the original model predicts without a condition."""

from erasediff.trainer.objectives.targets import noise


class Target(noise.Target):
    num_forwards, weights = 1, "original"

    def __init__(self, config, others):
        self.null = None

    def prepare(self, drawn, batch, model, device):
        return model.told([""] * len(drawn), device)

    def compute(self, prepared, batch, predict):
        return 2 * predict(batch.x_t, batch.timesteps, prepared)
