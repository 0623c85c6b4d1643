"""What an evaluation would do, told before anything is computed."""

from __future__ import annotations

from ...shards.dataset import Dataset
from ..config import EvaluateConfig, JudgeConfig
from ..config.toml import dump_toml
from ..models.class_names import labels_of
from ..models.fitting import fit
from .collect import check, places
from .copies import REPORT_NAME
from .earlier import Earlier
from .finished import FinishedScrub
from .ledger import ENTRIES_NAME
from .options import check_asked, check_device, gone_classes
from .record import RECORD_NAME


def dry_run(config: EvaluateConfig) -> str:
    """What `evaluate --dry-run` prints. Raises ConfigError or DataError where it would be refused; writes nothing."""
    check_device(config.judge)
    check(config)
    run, output = places(config)
    options, scrub = config.judge, FinishedScrub.open(run)
    data = fit(Dataset.open(config.data), scrub.unscrubbed).data
    forgotten, remaining = labels_of(scrub.forget), labels_of(scrub.remain)
    gone = gone_classes(forgotten, remaining, data.classes, scrub.config.forget)
    sets = [scrub.forget, scrub.remain]
    earlier = Earlier.beside(scrub.unscrubbed, data, scrub.forget, remaining)
    num_remain = len(scrub.remain)
    thresholds = check_asked(
        options, scrub.unscrubbed, data, sets, num_remain, forgotten, remaining, bool(gone), earlier
    )
    asked = [(gone or forgotten, options.num_forget_samples_per_class, "forgotten")]
    asked += [(remaining, options.num_remain_samples_per_class, "remaining")]
    samples = ", ".join(f"{num:,} of each of {len(labels)} {what} classes" for labels, num, what in asked)
    total = sum(num * len(labels) for labels, num, _ in asked)
    lines = [
        dump_toml(config).rstrip(),
        "",
        f"forgotten   {len(scrub.forget):,} samples, {len(scrub.remain):,} kept",
        f"unscrubbed  {scrub.unscrubbed.folder}",
        f"scrubbed    {scrub.scrubbed.folder}",
        f"retrained   {_retrained(options)}",
        f"judge       {options.classifier or f'a classifier trained on {config.data}'}",
        f"samples     {samples}: {total:,} a model",
        *(f"threshold   {threshold.text}" for threshold in thresholds),
        f"writes      an entry in {output / ENTRIES_NAME}, {RECORD_NAME} and {REPORT_NAME} beside it",
    ]
    return "\n".join(lines)


def _retrained(options: JudgeConfig) -> str:
    if options.with_retrained:
        return "is trained on what remains, as the unscrubbed model was trained"
    return options.retrained or "none: nothing says what forgetting this ends at"
