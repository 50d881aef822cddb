#!/usr/bin/env bash
# Training on several machines under SLURM. Copy this into the folder of a recipe (egs/openmic), edit the
# lines marked < and run: sbatch slurm.sh. All machines must see that folder. torchrun starts one process
# per GPU. After a cancellation or time-out, the same command resumes from the last epoch.
#SBATCH --job-name=ast_repr
#SBATCH --nodes=2                        # <
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4                # <
#SBATCH --cpus-per-task=32               # < shared by all processes of a machine
#SBATCH --time=02:00:00                  # <
#SBATCH --output=slurm-%j.log
set -euo pipefail

conf=ast_unet                                                                # <
seeds=0,1,2                                                                  # <
corpus=openmic                                                               # <
backbone=ast_audioset                                                        # <
weights=../../pretrained_models/downloads/ast_audioset.safetensors           # <
bin=../../.venv/bin                                                          # < of the Python that run.sh uses
recipe=(--corpus "$corpus" --backbone "$backbone" --conf "$conf" --seeds "$seeds")

bash run.sh "${recipe[@]}" --to extract  # on the first machine, as are score and report below

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / SLURM_GPUS_ON_NODE))
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" "$bin/torchrun" \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "${hosts[0]}:29500" \
    ../../src/train.py --data "data/$corpus" --exp "exp/$corpus" --conf-dir conf --corpus "$corpus" \
    --conf "$conf" --seeds "$seeds" --backbone "$backbone" --weights "$weights"

bash run.sh "${recipe[@]}" --from score
