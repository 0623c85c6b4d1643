"""What a user can do wrong, and what can go wrong in a run: one line each, no traceback at the command line."""

from __future__ import annotations

from collections.abc import Sequence


class ConfigError(ValueError):
    """An option, a file or their combination cannot work; the message names it and the fix."""


class TrainingError(RuntimeError):
    """A run cannot go on (a non-finite loss, say); what was saved before stays whole."""


class LostRankError(TrainingError):
    """Another rank has left or does not answer, so that this one cannot go on; why is that one's to say."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and what it had done is saved; the same command continues it.

    A signal raises it wherever the process stands: nothing that catches errors may take it for one.
    """


class ThresholdError(TrainingError):
    """A scrubbed model does not hold what was asked of it; its figures are written, and nothing is published."""

    advice: Sequence[str] = ()
    """What to try next, by the record that it rests on."""


class NotShownError(ThresholdError):
    """No figure is out of its limit, and still it is not shown that the model has forgotten and kept the rest."""


class OneRankError(TrainingError):
    """A TrainingError that this rank alone has seen (a sample it cannot read), so that it must say it itself."""
