#!/usr/bin/env bash
#SBATCH --job-name=headstart
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
# sbatch configs/launch/slurm.sh configs/pretrain/base.yaml run=big
# Two minutes before the time limit a checkpoint is saved; submit the same line again to resume from it.
set -euo pipefail
export MACHINES="$SLURM_NNODES" PROCESSES="${SLURM_GPUS_ON_NODE:-1}" JOB="$SLURM_JOB_ID"
HEAD="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500"
export HEAD
srun bash -c 'MACHINE="$SLURM_NODEID" exec configs/launch/several-machines.sh "$@"' headstart "$@"
