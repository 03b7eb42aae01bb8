#!/usr/bin/env bash
# Trains on several GPUs, or CPU processes: dist_train.sh CONFIG GPUS [flags]
# TOOL=cache_teacher.py asks the teacher of CONFIG in place of training.
# More machines: set NNODES, NODE_RANK and MASTER_ADDR on each.
set -euo pipefail
CONFIG=$1
GPUS=$2
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/${TOOL:-train.py}" "$CONFIG" --launcher pytorch "${@:3}"
