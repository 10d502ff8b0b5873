#!/bin/bash
# sbatch --nodes=4 docs/cluster/slurm.sh specs/quickstart.yaml --output /shared/runs/quickstart
# One Ray node on every node of the allocation, the driver beside the head. Two minutes before the time is up the driver
# publishes what is finished, and the job is queued again and goes on. The checkout and .venv lie on a shared disk.
#SBATCH --job-name=study
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if (($# < 1)); then
    echo "usage: sbatch slurm.sh SPEC [options of study launch]" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"
# shellcheck source=/dev/null
source "${STUDY_VENV:-.venv}/bin/activate"

port=${STUDY_PORT:-6379}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
on() {
    local node=$1
    shift
    srun --nodes=1 --ntasks=1 --exact --overlap --nodelist="$node" "$@"
}
address=$(on "$head" hostname --ip-address | awk '{print $1}')

# A token of this job's own: whoever reaches the port may otherwise run code. srun passes the environment on.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0

steps=()
driver=
# shellcheck disable=SC2329
finish() {
    if ((${#steps[@]})); then
        kill "${steps[@]}" 2>/dev/null || true
        wait "${steps[@]}" || true
    fi
}
trap finish EXIT

size=()
if [[ -n ${SLURM_CPUS_ON_NODE:-} ]]; then
    size+=(--num-cpus="$SLURM_CPUS_ON_NODE")
fi
on "$head" ray start --head --block --node-ip-address="$address" --port="$port" "${size[@]}" &
steps+=($!)

for _ in {1..120}; do
    if ray status --address="$address:$port" >/dev/null 2>&1; then
        break
    fi
    sleep 1
done

# The study does not wait for all nodes: it takes up each as it joins.
for node in "${nodes[@]:1}"; do
    on "$node" ray start --address="$address:$port" --block "${size[@]}" &
    steps+=($!)
done

# The batch script gets the signal, not the driver; `wait` returns when it comes, and is called again for the status.
stopped=
trap 'stopped=yes; if [[ -n $driver ]]; then kill -TERM "$driver"; fi' TERM
study launch "$@" --address "$address:$port" &
driver=$!
status=0
wait "$driver" || status=$?
if [[ -n $stopped ]]; then
    wait "$driver" || status=$?
    if ((status == 143)); then
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$status"
