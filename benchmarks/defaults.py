"""Which defaults of barrier, ∇g, η, cap and inner step: one digit erased with each variant, judged side by side.

    python benchmarks/defaults.py DEMO OUTPUT.jsonl [--label 3 --seeds 0 1]

DEMO is the folder of a finished `erasediff demo` (its base model and data are used). A row a variant and seed is
appended as it is done; variants that have a row are not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from erasediff.shards import Dataset, split
from erasediff.trainer import models
from erasediff.trainer.classifier import train_classifier
from erasediff.trainer.config import (
    EraseDiffConfig,
    EvaluateConfig,
    FinetuneConfig,
    MethodConfig,
    ModelConfig,
    MOOConfig,
    OptimizerConfig,
    ScrubConfig,
    TrainConfig,
)
from erasediff.trainer.evaluation import evaluate_model
from erasediff.trainer.scrubbing import run_scrub

VARIANTS: dict[str, MethodConfig] = {
    "rl η=.5 cap 1 (default)": EraseDiffConfig(),
    "rl η=.5 no cap": EraseDiffConfig(lambda_cap=None),
    "rl η=.5 cap 3": EraseDiffConfig(lambda_cap=3.0),
    "rl η=1 cap 1": EraseDiffConfig(eta=1.0),
    "rl η=.1 cap 1": EraseDiffConfig(eta=0.1),
    "rl η=1e-4 cap 1": EraseDiffConfig(eta=1e-4),
    "rl value η=.5 ξ=1e-3": EraseDiffConfig(barrier="value", xi=1e-3),
    "rl value η=5 ξ=1e-3": EraseDiffConfig(barrier="value", xi=1e-3, eta=5.0),
    "rl value η=.5 ξ=1e-2 K=3": EraseDiffConfig(barrier="value", xi=1e-2, num_inner_steps=3),
    "rl first_order ξ=1e-3": EraseDiffConfig(gradient_of_g="first_order", xi=1e-3),
    "rl first_order ξ=1e-2": EraseDiffConfig(gradient_of_g="first_order", xi=1e-2),
    "rl first_order ξ=1e-2 no cap": EraseDiffConfig(gradient_of_g="first_order", xi=1e-2, lambda_cap=None),
    "rl frozen teacher": EraseDiffConfig(teacher="frozen"),
    "noise η=1e-4 cap 1": EraseDiffConfig(target="noise", eta=1e-4),
    "noise η=.5 cap 1": EraseDiffConfig(target="noise", eta=0.5),
    "noise first_order ξ=1e-3": EraseDiffConfig(target="noise", gradient_of_g="first_order", xi=1e-3, eta=1e-4),
    "moo rl λ=1": MOOConfig(),
    "finetune": FinetuneConfig(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--label", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    done = set()
    if arguments.output.exists():
        rows = [json.loads(line) for line in arguments.output.read_text().splitlines()]
        done = {(row["variant"], row["label"], row["seed"]) for row in rows}
    data = Dataset.open(arguments.demo / "data")
    base = ModelConfig(path=str(arguments.demo / "base" / "model"), null_class=10)
    classifier = train_classifier(data, image_size=8, channels=1)
    others = [label for label in range(10) if label != arguments.label]
    with tempfile.TemporaryDirectory() as scratch:
        sets = Path(scratch) / "sets"
        split(arguments.demo / "data", sets, [str(arguments.label)])
        for seed in arguments.seeds:
            for variant, method in VARIANTS.items():
                if (variant, arguments.label, seed) in done:
                    continue
                is_noise = isinstance(method, EraseDiffConfig) and method.target == "noise"
                config = ScrubConfig(
                    model=base,
                    forget=str(sets / "forget"),
                    remain=str(sets / "remain"),
                    output=str(Path(scratch) / f"{seed}-{len(list(Path(scratch).iterdir()))}"),
                    method=method,
                    train=TrainConfig(seed=seed, max_train_steps=150 if is_noise else 100),
                    optimizer=OptimizerConfig(learning_rate=3e-4 if is_noise else 1e-4),
                )
                start = time.perf_counter()
                folder = run_scrub(config)
                seconds = time.perf_counter() - start
                lines = [json.loads(line) for line in (folder.parent / "metrics.jsonl").read_text().splitlines()]
                scrubbed = models.load(ModelConfig(path=str(folder), null_class=10))
                evaluate = EvaluateConfig(run=config.output, data=str(data.path))
                found = evaluate_model(scrubbed, classifier, [arguments.label], others, evaluate)
                row = {
                    "variant": variant,
                    "label": arguments.label,
                    "seed": seed,
                    "p_psi": round(found.p_psi, 4),
                    "accuracy_remaining": round(found.accuracy_remaining, 4),
                    "entropy": round(found.entropy, 3),
                    "capped": sum(line.get("capped", 0) for line in lines),
                    "mean_lambda_t": round(sum(line.get("lambda_t", 0) for line in lines) / len(lines), 4),
                    "cos_delta_g_positive": sum(line.get("cos_delta_g", 0) > 0 for line in lines) / len(lines),
                    "seconds": round(seconds, 1),
                }
                with arguments.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)


if __name__ == "__main__":
    main()
