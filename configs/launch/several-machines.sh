#!/usr/bin/env bash
# Train with torchrun on several machines that share the folder out/. Run on each of them, with MACHINE counting from 0:
#   MACHINES=2 MACHINE=0 HEAD=10.0.0.1:29500 PROCESSES=8 configs/launch/several-machines.sh configs/pretrain/base.yaml run=big
# HEAD is an address of machine 0. After a failure all processes restart from the newest checkpoint, up to RESTARTS times.
set -euo pipefail
exec "${PYTHON:-.venv/bin/python}" -m torch.distributed.run \
    --nnodes "$MACHINES" --nproc_per_node "${PROCESSES:-1}" --max_restarts "${RESTARTS:-10}" \
    --rdzv_backend c10d --rdzv_endpoint "$HEAD" --rdzv_id "${JOB:-headstart}" \
    --rdzv_conf "is_host=$((MACHINE == 0))" ${ADDRESS:+--local_addr "$ADDRESS"} \
    ${PROGRAM:--m pretrain} "$@"
