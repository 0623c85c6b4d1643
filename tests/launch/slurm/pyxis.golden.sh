#!/bin/bash

# Parameters
#SBATCH --chdir=/FOLDER
#SBATCH --comment='of the night'
#SBATCH --cpus-per-task=4
#SBATCH --dependency=afterok:1234
#SBATCH --error=/FOLDER/run/slurm/%j/%j_0_log.err
#SBATCH --job-name=scrub-run
#SBATCH --mem=512M
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --open-mode=append
#SBATCH --output=/FOLDER/run/slurm/%j/%j_0_log.out
#SBATCH --requeue
#SBATCH --reservation=maintenance
#SBATCH --signal=USR2@90
#SBATCH --time=60
#SBATCH --wckey=erasediff

# setup
export HF_HUB_OFFLINE=1
export SUBMITIT_PREEMPT_SIGNAL=USR2
export OMP_NUM_THREADS=4
export NOTE='two words'
export PYTHONPATH=/FOLDER/run/slurm/CODE${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /FOLDER/run/slurm/%j/%j_%t_log.out --error /FOLDER/run/slurm/%j/%j_%t_log.err --kill-on-bad-exit=1 --cpus-per-task=4 '--container-image=registry#erasediff:1' --container-mounts=/FOLDER:/FOLDER,/FOLDER/run:/FOLDER/run --container-workdir=/FOLDER --mpi=none python3 -u -m submitit.core._submit /FOLDER/run/slurm/%j


# teardown
status=$?
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
srun --nodes=1 --ntasks=1 '--container-image=registry#erasediff:1' --container-mounts=/FOLDER:/FOLDER,/FOLDER/run:/FOLDER/run --container-workdir=/FOLDER python3 -m erasediff.launch.slurm.after /FOLDER/run --status $status --ran $SECONDS --limit 3510 --fruitless 2 --ranks 4
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
