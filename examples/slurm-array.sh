#!/usr/bin/env bash
# A sweep as an array of jobs, each a shard of its runs:
#   sbatch examples/slurm-array.sh airline published
# All shards write to one archive on the file system that the nodes share; what it has is not done
# again, so the same command goes on with what a failure or a time limit has left.
#SBATCH --job-name=seqlib
#SBATCH --array=1-8
#SBATCH --cpus-per-task=2
#SBATCH --mem=10G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --output=seqlib-%A-%a.log
set -euo pipefail

export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"
export SEQLIB_RESULTS="${SEQLIB_RESULTS:-$SLURM_SUBMIT_DIR/results}"
export SEQLIB_RUNS="${SEQLIB_RUNS:-$SLURM_SUBMIT_DIR/.runs}"

# exec: the signal that Slurm sends a minute before the limit reaches seqlib itself
exec seqlib sweep "$@" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
