#!/bin/bash

# Parameters
#SBATCH --account=my-project
#SBATCH --chdir=/FOLDER
#SBATCH --cpus-per-task=12
#SBATCH --error=/FOLDER/run/slurm/%j/%j_0_log.err
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --job-name=scrub-run
#SBATCH --mem=921600M
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output=/FOLDER/run/slurm/%j/%j_0_log.out
#SBATCH --partition=a100
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=1440
#SBATCH --wckey=erasediff

# setup
export HF_HUB_OFFLINE=1
export SUBMITIT_PREEMPT_SIGNAL=USR2
export GLOO_SOCKET_IFNAME=ib0
export NCCL_SOCKET_IFNAME=ib0
export NCCL_IB_HCA=mlx5
set -e
trap 'echo "erasediff: setup failed: $BASH_COMMAND" >&2' ERR
module load cuda/13
trap - ERR
set +eu
export PYTHONPATH=/FOLDER/run/slurm/CODE${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /FOLDER/run/slurm/%j/%j_%t_log.out --error /FOLDER/run/slurm/%j/%j_%t_log.err --kill-on-bad-exit=1 --cpus-per-task=12 /PYTHON -u -m submitit.core._submit /FOLDER/run/slurm/%j


# teardown
status=$?
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
/PYTHON -m erasediff.launch.slurm.after /FOLDER/run --status $status --ran $SECONDS --limit 86310 --fruitless 2 --ranks 32
verdict=$?
if [ $verdict -eq 75 ]; then
  for try in $(seq 10); do
    if state=$(scontrol show job --oneliner $job); then
      case "$state" in
        *JobState=RUNNING*" Restarts=${SLURM_RESTART_COUNT:-0} "*) scontrol requeue $job ;;
        *) exit $verdict ;;
      esac
    fi
    sleep 30
  done
  echo "erasediff: SLURM did not queue the job again: submit it anew" >&2
fi
exit $verdict
