#!/usr/bin/env bash
# What waits for a GPU, in short steps; each leaves its rows in OUT, whatever becomes of the later ones.
#
#     bash benchmarks/gpu.sh OUT                    every step, in the order of what it decides
#     bash benchmarks/gpu.sh OUT engine sd1         some of them
#     bash benchmarks/gpu.sh --dry OUT              every line of it, on tiny models: without a GPU, too
#     CIFAR10=PATH bash benchmarks/gpu.sh OUT cifar10    one piece of at most 9 minutes; again, until it leaves with 0
#
# In the repository's root. Needs no network, and erasediff need not be installed. OUT/steps.txt says how each ended;
# the status is that of the last one that did not end with 0.
set -uo pipefail
dry=
if [ "${1:-}" = --dry ]; then dry=1 && shift; fi
out=${1:?usage: bash benchmarks/gpu.sh [--dry] OUT [STEP ...]}
shift
all="environment engine kernel-tests kernels ddpm sd1 cosine sd1-sweep attention sdxl sdxl-sweep ranks cifar10"
for name in "$@"; do
  case " $all " in
    *" $name "*) ;;
    *) echo "gpu.sh: no step $name; known: $all" >&2 && exit 2 ;;
  esac
done
mkdir -p "$out/models"
out=$(cd "$out" && pwd)
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
python=${PYTHON:-python}
if ! "$python" -c 'import erasediff.launch' 2>/dev/null; then
  mkdir -p build/lint/erasediff
  for package in trainer kernels launch shards; do ln -sfn "../../../$package" "build/lint/erasediff/$package"; done
  export PYTHONPATH="$PWD/build/lint${PYTHONPATH:+:$PYTHONPATH}"
fi
gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')

# step NAME COMMAND...: its output also goes to OUT/NAME.txt
step() {
  local name=$1 begun=$SECONDS
  shift
  echo "== $name: $*"
  "$@" 2>&1 | tee "$out/$name.txt"
  local status=${PIPESTATUS[0]}
  if [ "$status" -ne 0 ]; then ended=$status; fi
  echo "$name: left with $status after $((SECONDS - begun)) s" | tee -a "$out/steps.txt"
}
ended=0

throughput() { "$python" benchmarks/throughput.py --rows "$out/throughput.jsonl" "$@"; }
plan() { "$python" -m erasediff.launch plan --gpus "$ranks" --gpu-type h100-80gb --stored-latents "$@"; }
bench() { "$python" -m erasediff.launch bench --rows "$out/bench" "$@"; }
# on all GPUs where there are several
ranks() { "$python" -m erasediff.launch launch local -n "$ranks" bench --rows "$out/bench" "$@"; }
# pipeline NAME: its folder, without weights
pipeline() {
  local folder="$out/models/$1"
  [ -d "$folder" ] || "$python" benchmarks/pipelines.py "$1" "$folder" $([ -n "$dry" ] && [[ $1 = sd* ]] && echo --width 32) >&2
  echo "$folder"
}

# sizes: on a GPU, and dry
ranks=$gpus
few="--rounds 3 --repeats 10 --keep" some="--rounds 2 --repeats 5"
often="--rounds 2 --repeats 10 --warmup 3" once="--rounds 1 --repeats 20 --warmup 3"
ddpm="ddpm-cifar10 --batch-size 128" sd1="sd1 --batch-size 16" sdxl="sdxl --batch-size 4"
again="--activation-checkpointing all"
precisions="fp32 tf32 bf16-autocast bf16" large="bf16-autocast bf16" best=bf16 inner=bf16-autocast
buckets="10000000 50000000 200000000"
compile="False True" micro="4 8 16 32" few_samples=4 batch=16 most=32 size_sd1=512 size_sdxl=1024
kernels="" kernel_tests="tests/kernels" device=cuda cifar10="--base-steps 20000"
if [ -n "$dry" ]; then
  ranks=2 few="--rounds 1 --repeats 2" some=$few often="--rounds 1 --repeats 2 --warmup 0" once=$often
  ddpm="digits --batch-size 2" sd1="sd1 --width 32 --latent-size 8 --batch-size 2 --forward-batch-size 1"
  sdxl="sdxl --width 32 --latent-size 4 --batch-size 1" precisions=fp32 large=fp32 best=fp32 inner=fp32 buckets="1000 50000000"
  compile="False" micro="1 2" few_samples=1 batch=2 most=2 size_sd1=64 size_sdxl=64
  kernels="--models sd1 --scale 0.0005 --repeats 2" kernel_tests="tests/kernels/test_table.py" device=cpu
  cifar10="--tiny --device cpu --cost-seeds 0"
fi

environment() {
  nvidia-smi
  "$python" -c 'import platform, torch; print(platform.python_version(), torch.__version__, torch.version.cuda)'
  "$python" -m pip list 2>/dev/null | grep -iE 'torch|triton|deepspeed|diffusers|transformers|xformers|flash|nccl'
}

for name in ${*:-$all}; do
  case $name in
    environment) step environment environment ;;
    # exact on NCCL with as many ranks as there are GPUs: every stage, precision, overlap on and off, small buckets
    engine) step engine "$python" -m pytest tests/gpu -p no:cacheprovider ;;
    kernel-tests) step kernel-tests "$python" -m pytest $kernel_tests -p no:cacheprovider ;;
    # against a copy, a read, torch.compile and torch's multi-tensor kernels
    kernels) step kernels "$python" benchmarks/kernels.py $kernels
      cp build/benchmarks/kernels.jsonl "$out" ;;
    ddpm)
      for precision in $precisions; do
        step "ddpm-$precision" throughput --model $ddpm --precision "$precision" $few
      done
      ;;
    sd1)
      for precision in $large; do
        step "sd1-$precision" throughput --model $sd1 --precision "$precision" $some
        step "sd1-finetune-$precision" throughput --model $sd1 --precision "$precision" $some \
          --readings finetune "K = 0" --providers erasediff plain accelerate
      done
      ;;
    # in which precision K = 1 keeps ∇g
    cosine)
      step cosine "$python" benchmarks/precision.py "$(pipeline sd1)" --image-size $size_sd1 --device $device \
        --reference fp32 --batch-size $few_samples --batches 2 --xi 1e-3
      ;;
    # micro-batch, compile (minutes, once), channels last, share of checkpointing: MFU, peak memory and the split
    sd1-sweep)
      step sd1-plan plan --model.path "$(pipeline sd1)" --model.image-size $size_sd1 --engine.precision $best \
        --train.train-batch-size $batch
      for precision in $large; do
        step "sd1-sweep-$precision" bench --model.path "$(pipeline sd1)" --model.image-size $size_sd1 \
          --engine.device $device --engine.precision "$precision" $often --train.train-batch-size $most \
          --sweep.forward-batch-size $micro --trace "$out/sd1-$precision.json"
      done
      step sd1-layout bench --model.path "$(pipeline sd1)" --model.image-size $size_sd1 --engine.device $device \
        --engine.precision $best $once --train.train-batch-size $batch --sweep.compile $compile \
        --sweep.channels-last False True --sweep.cudnn-benchmark False True
      step sd1-checkpointing bench --model.path "$(pipeline sd1)" --model.image-size $size_sd1 --engine.device $device \
        --engine.precision $best $often --train.train-batch-size $batch --engine.activation-checkpointing all \
        --sweep.activation-checkpointing-share 0.25 0.5 1
      step sd1-kept bench --model.path "$(pipeline sd1)" --model.image-size $size_sd1 --engine.device $device \
        --engine.precision $best $often --train.train-batch-size $batch
      # on one rank nothing is sent: what sharding and buckets cost by themselves
      step sd1-stages bench --model.path "$(pipeline sd1)" --model.image-size $size_sd1 --engine.device $device \
        --engine.precision $best $often --train.train-batch-size $batch --sweep.zero-stage 2 3
      step sd1-buckets bench --model.path "$(pipeline sd1)" --model.image-size $size_sd1 --engine.device $device \
        --engine.precision $best $often --train.train-batch-size $batch --sweep.reduce-bucket-size $buckets
      ;;
    # what is not installed is a row that says so
    attention)
      step attention bench --model.path "$(pipeline sd1)" --model.image-size $size_sd1 --engine.device $device \
        --engine.precision $best $often --train.train-batch-size $batch --sweep.attention native xformers flash
      ;;
    # GB of 80 by `erasediff plan`: bf16 66; under autocast 78 at K = 0 and `value`, tight, hence activations made again: 68,
    # `first_order` 76. The research code's step holds up to 80 and takes no micro-batches: a row may say out of memory
    sdxl)
      step sdxl throughput --model $sdxl --forward-batch-size 1 --precision $best --readings "K = 0" \
        --providers erasediff plain $some
      step sdxl-inner throughput --model $sdxl --forward-batch-size 1 --precision $inner $again \
        --readings "K = 0" "value, K = 1" "first_order, K = 1" --providers erasediff plain $some
      step sdxl-released throughput --model $sdxl --precision $inner $again --readings "K = 0" "value, K = 1" \
        --providers erasediff plain released $some
      ;;
    # by ZeRO stage on all GPUs where there are several, with bus bandwidth; beside it what a plan of this machine says
    sdxl-sweep)
      step sdxl-plan plan --model.path "$(pipeline sdxl)" --model.image-size $size_sdxl --engine.precision $best \
        --train.train-batch-size $batch --engine.forward-batch-size 1
      step sdxl-sweep bench --model.path "$(pipeline sdxl)" --model.image-size $size_sdxl --engine.device $device \
        --engine.precision $best $often --train.train-batch-size $batch --sweep.forward-batch-size 1 2 \
        --sweep.activation-checkpointing off all
      if [ "$ranks" -gt 1 ]; then
        step sdxl-ranks ranks --model.path "$(pipeline sdxl)" --model.image-size $size_sdxl --engine.device $device $often \
          --engine.precision $best --train.train-batch-size $((batch * ranks)) --engine.forward-batch-size 1 \
          --sweep.zero-stage 1 2 3
      fi
      ;;
    # bus bandwidth, and FSDP2 beside both kinds of stages
    ranks)
      if [ "$ranks" -gt 1 ]; then
        step ranks ranks --model.path "$(pipeline sd1)" --model.image-size $size_sd1 --engine.device $device $often \
          --engine.precision $best --train.train-batch-size $((batch * ranks)) --sweep.zero-stage 2 3 \
          --sweep.overlap-communication False True
        step buckets ranks --model.path "$(pipeline sd1)" --model.image-size $size_sd1 --engine.device $device $often \
          --engine.precision $best --train.train-batch-size $((batch * ranks)) --sweep.reduce-bucket-size $buckets
        step reduce-dtype ranks --model.path "$(pipeline sd1)" --model.image-size $size_sd1 --engine.device $device \
          --engine.precision $inner $often --train.train-batch-size $((batch * ranks)) --sweep.reduce-dtype fp32 bf16
        for stage in 2 3; do
          step "fsdp2-$stage" "$python" -m torch.distributed.run --standalone --nproc-per-node "$ranks" \
            benchmarks/throughput.py --rows "$out/throughput.jsonl" --model $sd1 --precision $best --zero-stage $stage \
            --providers erasediff plain fsdp2 --readings "K = 0" $some
        done
      else
        echo "ranks: left out, one GPU" | tee -a "$out/steps.txt"
      fi
      ;;
    # the paper's experiment; CIFAR10: its training pictures, as `--images` takes them. Stopped, it goes on next time
    cifar10)
      if [ -n "${CIFAR10:-}" ]; then
        step cifar10 timeout --preserve-status --kill-after 30 540 "$python" benchmarks/cifar10.py --images "$CIFAR10" \
          --output "$out/cifar10" $cifar10
      else
        echo "cifar10: left out, CIFAR10 names no pictures" | tee -a "$out/steps.txt"
      fi
      ;;
  esac
done
exit "$ended"
