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
export PYTHONPATH=/FOLDER/run/slurm/CODE${PYTHONPATH:+:$PYTHONPATH}
export HF_HUB_OFFLINE=1
export OMP_NUM_THREADS=4
export NOTE='two words'

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /FOLDER/run/slurm/%j/%j_%t_log.out --error /FOLDER/run/slurm/%j/%j_%t_log.err --kill-on-bad-exit=1 --cpus-per-task=4 '--container-image=registry#erasediff:1' --container-mounts=/FOLDER:/FOLDER,/FOLDER/run:/FOLDER/run --container-workdir=/FOLDER --mpi=none python3 -u -m submitit.core._submit /FOLDER/run/slurm/%j


# teardown
status=$?
srun --nodes=1 --ntasks=1 '--container-image=registry#erasediff:1' --container-mounts=/FOLDER:/FOLDER,/FOLDER/run:/FOLDER/run --container-workdir=/FOLDER python3 -m erasediff.launch.slurm.after /FOLDER/run --status $status --ran $SECONDS --limit 3510 --fruitless 2 --ranks 4
verdict=$?
if [ $verdict -eq 75 ]; then
  for try in $(seq 10); do
    if state=$(scontrol show job --oneliner $SLURM_JOB_ID); then
      case "$state" in
        *JobState=RUNNING*" Restarts=${SLURM_RESTART_COUNT:-0} "*) scontrol requeue $SLURM_JOB_ID ;;
        *) exit $verdict ;;
      esac
    fi
    sleep 30
  done
  echo "erasediff: SLURM did not queue the job again: submit it anew" >&2
fi
exit $verdict
