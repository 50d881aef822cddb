#!/usr/bin/env bash
# Training on several machines under SLURM: copy this, edit the lines marked <, then: sbatch slurm.sh, from the folder of a recipe
# (egs/openmic). All machines must see that folder. One task a machine: it starts torchrun, and torchrun a process a GPU; the first
# machine is where they meet. Cancelled or out of time, the same command goes on from the last epoch.
#SBATCH --job-name=ast_repr
#SBATCH --nodes=2                        # <
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4                # <
#SBATCH --cpus-per-task=32               # < of all processes of a machine together
#SBATCH --time=02:00:00                  # <
#SBATCH --output=slurm-%j.log
set -euo pipefail

recipe=(--corpus openmic --backbone ast_audioset --conf ast_unet --seeds 0,1,2)    # < as for run.sh
corpus=openmic backbone=ast_audioset weights=../../pretrained_models/downloads/ast_audioset.safetensors    # <
bin=../../.venv/bin                                                                # < of the Python that run.sh uses

bash run.sh "${recipe[@]}" --to extract  # on the first machine, as are score and report below

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / SLURM_GPUS_ON_NODE))
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" "$bin/torchrun" --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
    ../../src/train.py --data "data/$corpus" --exp "exp/$corpus" --conf-dir conf --corpus "$corpus" \
    --conf ast_unet --seeds 0,1,2 --backbone "$backbone" --weights "$weights" # < conf and seeds as above

bash run.sh "${recipe[@]}" --from score
