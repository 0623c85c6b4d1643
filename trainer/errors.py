"""What a user can do wrong, and what can go wrong in a run: one line each, no traceback at the command line."""


class ConfigError(ValueError):
    """An option, a file or their combination cannot work; the message names it and the fix."""


class TrainingError(RuntimeError):
    """A run cannot go on (a non-finite loss, say); what was saved before stays whole."""


class ThresholdError(TrainingError):
    """A scrubbed model does not hold what was asked of it; its figures are written, and nothing is published."""
