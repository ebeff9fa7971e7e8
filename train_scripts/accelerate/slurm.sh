#!/bin/bash
# A job of two nodes with eight GPUs each: one `accelerate launch` per node, one process per GPU.
#
#   sbatch train_scripts/accelerate/slurm.sh --data /shared/crops/four_class --output /shared/runs/NAME --batch-size 4
#
# Two minutes before its time limit or a preemption, Slurm sends SIGTERM: the run writes a checkpoint and ends. The same
# command resumes it, as does Slurm itself with --requeue.

#SBATCH --job-name=timm-convattn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

# seconds that a launcher waits for its processes to write the checkpoint; the default is 30
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100

gpus_per_node="${SLURM_GPUS_ON_NODE:-8}"
nodes="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
first_node="${nodes%%$'\n'*}"

# resume a run that was started: its folder holds config.yaml
output=''
previous=''
for argument in "$@"; do
  [ "$previous" = --output ] && output="$argument"
  previous="$argument"
done
if [ -n "$output" ] && [ -f "$output/config.yaml" ]; then
  set -- --resume "$output"
fi

# only the node itself has its rank, so the shell that srun starts there inserts it
exec srun --kill-on-bad-exit=1 bash -c '
  exec accelerate launch --config_file train_scripts/accelerate/two_nodes.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$(( SLURM_NNODES * '"$gpus_per_node"' ))" \
    --machine_rank "$SLURM_NODEID" --main_process_ip '"$first_node"' \
    train_scripts/finetune.py "$@"
' finetune "$@"
