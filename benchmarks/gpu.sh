#!/usr/bin/env bash
# What waits for a GPU, in the order of what it decides; run it in the repository's root with erasediff installed.
# Results are appended as they come: bash benchmarks/gpu.sh OUTPUT_FOLDER
set -uo pipefail
out=${1:?usage: bash benchmarks/gpu.sh OUTPUT_FOLDER}
mkdir -p "$out"
export PYTHONUNBUFFERED=1
python -m pytest tests/gpu -p no:cacheprovider 2>&1 | tee "$out/engine.txt"
python -m pytest tests/kernels -p no:cacheprovider 2>&1 | tee "$out/kernels-tests.txt"
python benchmarks/kernels.py 2>&1 | tee "$out/kernels.md"
for precision in fp32 bf16-autocast bf16; do
  python benchmarks/step.py --model ddpm-cifar10 --batch-size 128 --precision "$precision" 2>&1 | tee "$out/step-$precision.md"
done
