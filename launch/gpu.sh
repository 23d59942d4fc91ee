#!/usr/bin/env bash
# Trains on the GPUs of one machine: one shard of the experts on each, or one process
# over all of them.
#
#   bash launch/gpu.sh [--dry_run] COMMAND...
#   bash launch/gpu.sh elm_train --gin_file=gin/t5/prompt_experts.gin --gin.MODEL_DIR=runs/t5
#
# Adds --gin.SHARD=i/n to the command. A shard that ends badly is started again and goes
# on from its last save. SIGTERM and Ctrl-C are passed on: the shards save, and this
# script ends with 143. It ends with 1 if a shard failed for good, and names its log.
#
# Settings, from the environment:
#   GPUS       ids such as 0,1; by default CUDA_VISIBLE_DEVICES, or what nvidia-smi lists
#   TOGETHER   1 for one process over all GPUs, without shards: for dataset experts
#   RETRIES    how often a shard is started again (2)
#   LOG_DIR    where the shards' output goes (runs/logs)
set -euo pipefail

fail() {
  printf 'Found: %s\nExpected: %s\nTo do: %s\n' "$1" "$2" "$3" >&2
  exit 1
}

dry=
case ${1:-} in
  --help | -h) awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0" && exit ;;
  --dry_run) dry=1 && shift ;;
esac
[ $# -gt 0 ] || fail "no command." "one such as elm_train --gin_file=..." "See --help."

gpus=${GPUS:-${CUDA_VISIBLE_DEVICES:-}}
if [ -z "$gpus" ] && command -v nvidia-smi >/dev/null; then
  gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd, || true)
fi
[ -n "$gpus" ] || fail "no GPU by GPUS, CUDA_VISIBLE_DEVICES or nvidia-smi." "one or more." "Set GPUS=0,1 or mend the driver."
IFS=, read -ra ids <<<"$gpus"
retries=${RETRIES:-2}
logs=${LOG_DIR:-runs/logs}

if [ "${TOGETHER:-}" = 1 ]; then
  if [ -n "$dry" ]; then
    printf 'CUDA_VISIBLE_DEVICES=%s %s\n' "$gpus" "${*@Q}"
    exit
  fi
  export CUDA_VISIBLE_DEVICES=$gpus
  exec "$@"
fi

count=${#ids[@]}
if [ -n "$dry" ]; then
  for i in "${!ids[@]}"; do
    printf 'CUDA_VISIBLE_DEVICES=%s %s --gin.SHARD=%d/%d >>%s/shard-%d-of-%d.log 2>&1 &\n' \
      "${ids[i]}" "${*@Q}" "$i" "$count" "$logs" "$i" "$count"
  done
  exit
fi

# Sets `status` to that of process $1. A trapped signal interrupts `wait`: wait again.
wait_for() {
  while kill -0 "$1" 2>/dev/null; do
    wait "$1" || true
  done
  status=0
  wait "$1" || status=$?
}

run_shard() { # index, command...
  local i=$1 pid='' stopped='' try log
  shift
  log="$logs/shard-$i-of-$count.log"
  trap 'stopped=1; [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null || true' TERM
  for ((try = 0; try <= retries; try++)); do
    [ -z "$stopped" ] || return 143
    CUDA_VISIBLE_DEVICES=${ids[i]} "$@" --gin.SHARD="$i/$count" >>"$log" 2>&1 &
    pid=$!
    [ -z "$stopped" ] || kill -TERM "$pid" 2>/dev/null || true
    wait_for "$pid"
    [ "$status" -ne 0 ] || return 0
    [ -z "$stopped" ] || return 143
    echo "gpu: shard $i/$count ended with $status, try $((try + 1)) of $((retries + 1)); see $log" >&2
  done
  return 1
}

mkdir -p "$logs"
# Groups of their own: Ctrl-C would reach the trainings besides what is passed on, and
# a second signal ends them unsaved.
set -m
pids=()
stopped=
trap 'stopped=1; [ ${#pids[@]} -eq 0 ] || kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for i in "${!ids[@]}"; do
  run_shard "$i" "$@" &
  pids+=($!)
  echo "gpu: shard $i/$count on GPU ${ids[i]}, output in $logs/shard-$i-of-$count.log"
done
failed=0
for pid in "${pids[@]}"; do
  wait_for "$pid"
  [ "$status" -eq 0 ] || failed=$((failed + 1))
done
[ -z "$stopped" ] || exit 143
[ "$failed" -eq 0 ] || fail "$failed of $count shards failed." "all to finish." "Read $logs and run the same command again."
echo "gpu: all $count shards are finished"
