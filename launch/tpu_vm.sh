#!/usr/bin/env bash
# Trains experts on Cloud TPU VMs by queued resources: one VM, or slice, per shard.
#
#   bash launch/tpu_vm.sh [--dry_run] ACTION [COMMAND...]
#   bash launch/tpu_vm.sh train elm_train --gin_file=gin/t5/prompt_experts.gin \
#     --gin.MODEL_DIR=/mnt/runs/t5
#
# Actions, each on all shards:
#   train COMMAND...  everything: create, wait, install, run, delete. A VM that was
#                     preempted is made again, and its shard goes on from what it saved
#   create            ask for the VMs
#   wait              until they are there
#   install           copy this clone to every worker and install it there
#   run COMMAND...    run a command on every worker, with --gin.SHARD=i/n for n shards
#   status            show their states
#   delete            give them back
# --dry_run prints the commands instead.
#
# Settings, from the environment:
#   PROJECT, ZONE     required
#   ACCELERATOR_TYPE  such as v5litepod-8; required. With a slice of several hosts, such
#                     as v5litepod-16, give the command --multiprocess: each host
#                     then trains its own share of a fleet's experts, and what is no
#                     fleet is trained by all hosts together
#   RUNTIME_VERSION   such as v2-alpha-tpuv5-lite; required
#   TPU_NAME          VMs are called TPU_NAME-0, TPU_NAME-1, ... (elm)
#   SHARDS            how many VMs (1)
#   SPOT              1 for cheaper ones that may be preempted
#   SETUP             a line run on every worker after installing, to mount what
#                     MODEL_DIR lies on. Filestore or other NFS:
#                       sudo apt-get install -y nfs-common && sudo mkdir -p /mnt/runs &&
#                       sudo mount 10.0.0.2:/runs /mnt/runs
#                     A bucket, by gcsfuse, with a hierarchical namespace: only there
#                     is renaming a folder atomic:
#                       mkdir -p /mnt/runs && gcsfuse --implicit-dirs BUCKET /mnt/runs
#                     Not needed for VMs of one host whose command has a
#                     --gin.PUBLISH_URL=gs://BUCKET/PATH: finished experts are safe
#                     there. SETUP then brings the base and data to the VM's own disk
#   EXTRA             of setup.py (tpu)
#   PREEMPTIONS       how often a VM is made again (50)
#   RETRIES           how often a command that failed on a living VM is run again (2)
#   POLL_SECS         between two looks at a state (60)
#   LOG_DIR           where the output of each shard goes while training (runs/logs)
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
action=${1:-}
[ $# -eq 0 ] || shift
case $action in
  train | run) [ $# -gt 0 ] || fail "no command after $action." "one such as elm_train --gin_file=..." "See --help." ;;
  create | wait | install | status | delete) [ $# -eq 0 ] || fail "$action with arguments: $*." "none." "See --help." ;;
  *) fail "action '$action'." "train, create, wait, install, run, status or delete." "See --help." ;;
esac
for name in PROJECT ZONE ACCELERATOR_TYPE RUNTIME_VERSION; do
  [ -n "${!name:-}" ] || fail "no $name." "PROJECT, ZONE, ACCELERATOR_TYPE and RUNTIME_VERSION." "Set $name; --help says what it is."
done
shards=${SHARDS:-1}
[[ $shards =~ ^[1-9][0-9]*$ ]] || fail "SHARDS='$shards'." "a number of VMs, 1 or more." "Set SHARDS=4, for example."
[ -n "$dry" ] || command -v gcloud >/dev/null || fail "no gcloud on this machine." "the Google Cloud CLI, logged in." "Install it, or add --dry_run to see the commands."
root=$(cd "$(dirname "$0")/.." && pwd)
poll=${POLL_SECS:-60}

quoted() { # a word as a shell reads it
  if [[ $1 =~ ^[a-zA-Z0-9_./:=@%+,-]+$ ]]; then
    printf '%s ' "$1"
  else
    printf "'%s' " "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"
  fi
}

tpus() { # the part of gcloud for TPUs, where they are; or what would be called
  if [ -n "$dry" ]; then
    local word
    for word in gcloud compute tpus "$@" "--project=$PROJECT" "--zone=$ZONE"; do
      quoted "$word"
    done
    echo
  else
    gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"
  fi
}

create() { # node
  tpus queued-resources create "$1" --node-id="$1" --accelerator-type="$ACCELERATOR_TYPE" \
    --runtime-version="$RUNTIME_VERSION" ${SPOT:+--spot}
}

state() { # node: one word, or nothing if there is no such request
  tpus queued-resources describe "$1" '--format=value(state.state)' 2>/dev/null || true
}

wait_active() { # node: whether it is there at last
  if [ -n "$dry" ]; then
    state "$1"
    return
  fi
  local now
  while :; do
    now=$(state "$1")
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED | '') return 1 ;;
    esac
    echo "tpu_vm: $1 is $now"
    sleep "$poll"
  done
}

on_workers() { # node, shell text
  tpus tpu-vm ssh "$1" --worker=all --command="$2"
}

install() { # node
  local folder text status=0
  folder=$(mktemp -d)
  # uv brings Python 3.11, which the images of TPU VMs need not have.
  text="set -e
mkdir -p elm_jax && tar -xzf elm_jax.tar.gz -C elm_jax && cd elm_jax
python3 -m uv --version || python3 -m pip install --user uv || python3 -m pip install --user --break-system-packages uv
[ -d .venv ] || python3 -m uv venv --python 3.11 .venv
python3 -m uv pip install --quiet --python .venv -c requirements.lock -e '.[${EXTRA:-tpu}]'
${SETUP:-}"
  tar -C "$root" --exclude=__pycache__ -czf "$folder/elm_jax.tar.gz" \
    elm_jax gin tasks launch setup.py pyproject.toml README.md requirements.lock &&
    tpus tpu-vm scp "$folder/elm_jax.tar.gz" "$1:" --worker=all &&
    on_workers "$1" "$text" || status=$?
  rm -r "$folder"
  return "$status"
}

run() { # node, index, command...
  local node=$1 index=$2 word words
  shift 2
  [ "$shards" -eq 1 ] || set -- "$@" "--gin.SHARD=$index/$shards"
  words=$(for word in "$@"; do quoted "$word"; done)
  # flock: if the connection broke, what it left running goes first.
  on_workers "$node" "cd elm_jax && export PATH=\$PWD/.venv/bin:\$PATH && flock .running $words"
}

delete() { # node
  tpus queued-resources delete "$1" --force --quiet
}

train() { # node, index, command...: until the command has ended well
  local node=$1 index=$2 num_losses=0 failed=0
  shift 2
  if [ -n "$dry" ]; then
    create "$node"
    wait_active "$node"
    install "$node"
    run "$node" "$index" "$@"
    delete "$node"
    return
  fi
  while :; do
    if ! wait_active "$node"; then
      if [ "$num_losses" -gt "${PREEMPTIONS:-50}" ]; then
        echo "tpu_vm: $node was lost $num_losses times; giving up"
        return 1
      fi
      [ -z "$(state "$node")" ] || delete "$node"
      create "$node"
      num_losses=$((num_losses + 1))
      continue
    fi
    if install "$node" && run "$node" "$index" "$@"; then
      delete "$node"
      return
    fi
    if [ "$(state "$node")" = ACTIVE ]; then
      failed=$((failed + 1))
      if [ "$failed" -gt "${RETRIES:-2}" ]; then
        echo "tpu_vm: the command failed $failed times on $node, which is still there"
        return 1
      fi
    fi
    sleep "$poll"
  done
}

each() { # function, arguments...: on all shards, one after another
  local i
  for ((i = 0; i < shards; i++)); do
    "$1" "${TPU_NAME:-elm}-$i" "${@:2}"
  done
}

together() { # function, arguments...: on all shards at once, each with a log
  local logs=${LOG_DIR:-runs/logs} i pids=() lost=0
  mkdir -p "$logs"
  set -m # each shard a process group, to be ended whole
  for ((i = 0; i < shards; i++)); do
    "$1" "${TPU_NAME:-elm}-$i" "$i" "${@:2}" >>"$logs/tpu-$i.log" 2>&1 &
    pids+=($!)
    echo "tpu_vm: shard $i/$shards on ${TPU_NAME:-elm}-$i, output in $logs/tpu-$i.log"
  done
  trap 'kill -- "${pids[@]/#/-}" 2>/dev/null; echo "tpu_vm: stopped here; the VMs are still there, see status and delete" >&2; exit 143' TERM INT
  for i in "${!pids[@]}"; do
    wait "${pids[i]}" || { lost=$((lost + 1)) && echo "tpu_vm: shard $i failed; see $logs/tpu-$i.log" >&2; }
  done
  [ "$lost" -eq 0 ] || fail "$lost of $shards shards failed." "all to finish." "Read the logs and give the same command again."
  echo "tpu_vm: all $shards shards are finished"
}

case $action in
  train | run)
    if [ -n "$dry" ]; then
      for ((i = 0; i < shards; i++)); do "$action" "${TPU_NAME:-elm}-$i" "$i" "$@"; done
    else
      together "$action" "$@"
    fi
    ;;
  wait) each wait_active ;;
  status) each state ;;
  *) each "$action" ;;
esac
