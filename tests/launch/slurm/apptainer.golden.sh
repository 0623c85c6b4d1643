#!/bin/bash

# Parameters
#SBATCH --chdir=/FOLDER
#SBATCH --error=/FOLDER/run/slurm/%j/%j_0_log.err
#SBATCH --gpus-per-node=4
#SBATCH --job-name=scrub-run
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=/FOLDER/run/slurm/%j/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=60
#SBATCH --wckey=erasediff

# setup
export HF_HUB_OFFLINE=1
export SUBMITIT_PREEMPT_SIGNAL=USR2
export PYTHONPATH=/FOLDER/run/slurm/CODE${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /FOLDER/run/slurm/%j/%j_%t_log.out --error /FOLDER/run/slurm/%j/%j_%t_log.err --kill-on-bad-exit=1 apptainer exec --nv --bind /FOLDER:/FOLDER --bind /FOLDER/run:/FOLDER/run --bind /data:/data /images/erasediff.sif python3 -u -m submitit.core._submit /FOLDER/run/slurm/%j


# teardown
status=$?
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
apptainer exec --nv --bind /FOLDER:/FOLDER --bind /FOLDER/run:/FOLDER/run --bind /data:/data /images/erasediff.sif python3 -m erasediff.launch.slurm.after /FOLDER/run --status $status --ran $SECONDS --limit 3510 --fruitless 2 --ranks 8
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
