#!/bin/bash
# A job of two nodes with eight GPUs each: one `accelerate launch` a node, a process a GPU.
#
#   sbatch train_scripts/accelerate/slurm.sh --data /shared/crops/four_class --output /shared/runs/NAME --batch-size 4
#
# When its time is up, or its nodes are wanted for another job, Slurm sends SIGTERM two minutes ahead: the run writes a
# checkpoint and ends. The same command goes on with it, as does Slurm itself with --requeue.

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

# how long a launcher waits for its processes to write the checkpoint, in seconds; torch gives them 30 by itself
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100

gpus_per_node="${SLURM_GPUS_ON_NODE:-8}"
nodes="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
first_node="${nodes%%$'\n'*}"

# a run that was begun goes on: its folder holds a config.yaml
output=''
previous=''
for argument in "$@"; do
  [ "$previous" = --output ] && output="$argument"
  previous="$argument"
done
if [ -n "$output" ] && [ -f "$output/config.yaml" ]; then
  set -- --resume "$output"
fi

# the rank of a node is known on the node alone, so the shell that srun starts there fills it in
exec srun --kill-on-bad-exit=1 bash -c '
  exec accelerate launch --config_file train_scripts/accelerate/two_nodes.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$(( SLURM_NNODES * '"$gpus_per_node"' ))" \
    --machine_rank "$SLURM_NODEID" --main_process_ip '"$first_node"' \
    train_scripts/finetune.py "$@"
' finetune "$@"
