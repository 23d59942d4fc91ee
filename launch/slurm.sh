#!/usr/bin/env bash
# Trains experts as a SLURM job array: one task per shard of the list.
#
#   SHARDS=n bash launch/slurm.sh [--dry_run] COMMAND...
#   SHARDS=8 bash launch/slurm.sh elm_train --gin_file=gin/t5/prompt_experts.gin \
#     --gin.MODEL_DIR=/shared/t5
#
# Adds --gin.SHARD=i/n to the command. Ahead of its time limit SLURM warns a task, which
# passes SIGTERM on; when it preempts one it sends SIGTERM itself. The training saves, the
# task puts itself back into the queue and goes on from there. SLURM does that for a task
# whose node has failed. An error ends a task; give the same command again after mending
# it. scancel saves and ends. MODEL_DIR has to lie on a file system that all nodes share;
# --gin.PUBLISH_URL=s3://BUCKET/PATH also puts finished experts into a bucket, which other
# clusters see.
# --dry_run prints the batch script.
#
# Settings, from the environment:
#   SHARDS         tasks in the array; required
#   PARALLEL       how many of them run at once (all)
#   TIME           limit of one task (24:00:00); longer trainings are requeued
#   GRACE_SECS     how long before the limit a task is told to save (120)
#   MAX_RESTARTS   how often a task may put itself back (50)
#   NODES          nodes of one task (1); with more, give the command --multiprocess:
#                  each then trains its own share of a fleet's experts
#   GPUS_PER_NODE  (1)
#   CPUS           cores per node (8)
#   MEMORY         per node (64G)
#   PARTITION, ACCOUNT, QOS, CONSTRAINT   as sbatch has them (none)
#   SETUP          a line run first in each task, such as "source .venv/bin/activate"
#   JOB_NAME       (elm)
#   LOG_DIR        (runs/logs)
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
[[ ${SHARDS:-} =~ ^[1-9][0-9]*$ ]] || fail "SHARDS='${SHARDS:-}'." "a number of tasks, 1 or more." "Set SHARDS=8, for example."

option() { # name, value: a line for sbatch, unless the value is empty
  [ -z "$2" ] || echo "#SBATCH --$1=$2"
}

batch_script() {
  local logs=${LOG_DIR:-runs/logs}
  echo '#!/usr/bin/env bash'
  option job-name "${JOB_NAME:-elm}"
  option array "0-$((SHARDS - 1))${PARALLEL:+%$PARALLEL}"
  option time "${TIME:-24:00:00}"
  option nodes "${NODES:-1}"
  option ntasks-per-node 1
  option gpus-per-node "${GPUS_PER_NODE:-1}"
  option cpus-per-task "${CPUS:-8}"
  option mem "${MEMORY:-64G}"
  option partition "${PARTITION:-}"
  option account "${ACCOUNT:-}"
  option qos "${QOS:-}"
  option constraint "${CONSTRAINT:-}"
  option output "$logs/%x-%A_%a.log"
  option open-mode append
  option signal "B:USR1@${GRACE_SECS:-120}"
  echo '#SBATCH --requeue'
  cat <<END
set -euo pipefail
shards=$SHARDS
max_restarts=${MAX_RESTARTS:-50}
command=(${*@Q})
END
  cat <<'END'

# USR1 comes ahead of the time limit, to this shell alone. TERM, when the task is
# cancelled or preempted, goes to the training, too: a second one would end it unsaved.
pid=
warned=
pass_on() { [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null || true; }
trap 'warned=1; pass_on' USR1
trap : TERM

END
  printf '%s\n' "${SETUP:-: # SETUP}"
  cat <<'END'

# Of several nodes each saves for itself after a signal: none may end the others.
srun --kill-on-bad-exit=0 "${command[@]}" --gin.SHARD="$SLURM_ARRAY_TASK_ID/$shards" &
pid=$!
[ -z "$warned" ] || pass_on
while kill -0 "$pid" 2>/dev/null; do # a signal interrupts wait
  wait "$pid" || true
done
status=0
wait "$pid" || status=$?
# A task that is still running was not cancelled.
if { [ "$status" -eq 143 ] || { [ -n "$warned" ] && [ "$status" -ne 0 ]; }; } &&
  scontrol show job "$SLURM_JOB_ID" | grep -q 'JobState=RUNNING'; then
  restarts=${SLURM_RESTART_COUNT:-0}
  if [ "$restarts" -lt "$max_restarts" ]; then
    echo "slurm: saved and requeued, restart $((restarts + 1)) of at most $max_restarts"
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$status"
END
}

if [ -n "$dry" ]; then
  batch_script "$@"
  exit
fi
command -v sbatch >/dev/null || fail "no sbatch on this machine." "a login node of a SLURM cluster." "Run it there, or add --dry_run to see the batch script."
mkdir -p "${LOG_DIR:-runs/logs}"
batch_script "$@" | sbatch
