"""What compare_digits.py writes beside a digit's own table: all digits together."""

from __future__ import annotations

from statistics import mean

from compared import value_of
from erasediff.trainer.comparing.derived import ERR, RELEARNING_AREA
from erasediff.trainer.comparing.rows import Row

FRECHET = "frechet_distance[digits-cnn]"


def overall(found: list[tuple[Row, dict[str, Row]]]) -> str:
    """A line for each method. found: each row, and its digit's unscrubbed and retrained model by their names."""
    lines = [
        "Means over digits and seeds, each beside its own digit's unscrubbed or retrained model.",
        "",
        "| | runs | P_psi | highest P_psi | accuracy on the rest | lowest of a class | Fréchet distance over the "
        "unscrubbed model's | relearning, less the retrained model's | ERR | before its own, s | s | fail a limit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row.name for row, _ in found):
        own = [(row, beside) for row, beside in found if row.name == name and row.failed is None]
        ended = sum(row.name == name for row, _ in found) - len(own)
        p_psi = [value_of(row, "p_psi") for row, _ in own]
        distances = [value_of(row, FRECHET) / value_of(beside["unscrubbed"], FRECHET) for row, beside in own]
        relearning = [
            value_of(row, RELEARNING_AREA) - value_of(beside["retrained"], RELEARNING_AREA) for row, beside in own
        ]
        trained = [row.training for row, _ in own if row.training is not None]
        cells = [
            f"{len(own)}" + (f", {ended} ended early" if ended else ""),
            f"{mean(p_psi):.3f}",
            f"{max(p_psi):.3f}",
            f"{mean(value_of(row, 'accuracy_remaining') for row, _ in own):.3f}",
            f"{min(value_of(row, 'accuracy_worst_class') for row, _ in own):.2f}",
            f"{mean(distances):.2f}",
            f"{mean(relearning):+.2f}",
            f"{mean(value_of(row, ERR) for row, _ in own):.3f}",
            f"{mean(one.preparing_seconds for one in trained):.1f}" if trained else "–",
            f"{mean(one.seconds for one in trained):.1f}" if trained else "–",
            f"{sum(row.verdict == 'failed' for row, _ in own)}" if trained else "–",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
