#!/bin/sh
# Several trainers of one run, on one host or on many; the same command on each.
#
#     HOSTS=2 HEAD=head.example TRAINERS=1 deploy/torchrun.sh --preset paper --out runs/several
#
# HOSTS      hosts of the run; 1 by default
# HEAD       the host where trainer 0 is and the run directory will be; needed where there are many
# PORT       a free port of it; 29400 by default
# TRAINERS   trainers of each host; 1 by default
# What follows goes to `sparring train`.
set -eu
hosts=${HOSTS:-1}
if [ "$hosts" -gt 1 ] && [ -z "${HEAD:-}" ]; then
    echo "HEAD must name the host of trainer 0, because the $hosts hosts meet there." >&2
    exit 2
fi
exec torchrun --nnodes "$hosts" --nproc-per-node "${TRAINERS:-1}" \
    --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost}:${PORT:-29400}" --rdzv-id sparring \
    -m sparring train "$@"
