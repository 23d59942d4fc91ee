#!/usr/bin/env bash
# Trains experts as a Kubernetes Indexed Job: one index per shard of the list.
#
#   SHARDS=n IMAGE=i CLAIM=c bash launch/kubernetes.sh [--dry_run] COMMAND...
#   SHARDS=8 IMAGE=registry/elm_jax CLAIM=experts bash launch/kubernetes.sh elm_train \
#     --gin_file=gin/t5/prompt_experts.gin --gin.MODEL_DIR=/runs/t5
#
# Adds --gin.SHARD=i/n to the command. Each index has retries of its own; a pod that was
# evicted or preempted, or that saved because of SIGTERM, uses none of them. A new pod
# goes on from what the old one saved in the claim, which has to be writable from many
# nodes (ReadWriteMany); --gin.PUBLISH_URL=gs://BUCKET/PATH (or s3://) also puts finished
# experts into a bucket. Needs Kubernetes 1.29 or later. --dry_run prints the manifest.
#
# IMAGE holds elm_jax, for example from the Dockerfile
#   FROM python:3.11
#   COPY . /elm_jax
#   RUN pip install "/elm_jax[gpu]"
#   WORKDIR /elm_jax
#
# Settings, from the environment:
#   SHARDS, IMAGE  required
#   CLAIM          PersistentVolumeClaim that is mounted at /runs; required
#   JOB_NAME       (elm)
#   NAMESPACE      (kubectl's own)
#   PARALLEL       how many indices run at once (all)
#   RETRIES        of each index (4)
#   MAX_FAILED     how many indices may fail for good before the job stops (all)
#   RESOURCE       the accelerator's name (nvidia.com/gpu); google.com/tpu on GKE
#   DEVICES        accelerators per pod (1); 0 for none
#   CPUS, MEMORY   per pod (8, 64Gi)
#   NODE_SELECTOR  label=value,label=value (none)
#   GRACE_SECS     time to save after SIGTERM (120)
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
[[ ${SHARDS:-} =~ ^[1-9][0-9]*$ ]] || fail "SHARDS='${SHARDS:-}'." "a number of shards, 1 or more." "Set SHARDS=8, for example."
[ -n "${IMAGE:-}" ] || fail "no IMAGE." "a container image that holds elm_jax." "Set IMAGE; --help has a Dockerfile."
[ -n "${CLAIM:-}" ] || fail "no CLAIM." "a PersistentVolumeClaim that many nodes can write." "Set CLAIM; experts and checkpoints go there."

[[ $* != *$'\n'* ]] || fail "an argument of several lines." "arguments of one line each." "Put it into a gin file."

quoted() { # a YAML string
  printf "'%s'" "${1//\'/\'\'}"
}

manifest() {
  cat <<END
apiVersion: batch/v1
kind: Job
metadata:
  name: $(quoted "${JOB_NAME:-elm}")
spec:
  completionMode: Indexed
  completions: $SHARDS
  parallelism: ${PARALLEL:-$SHARDS}
  backoffLimitPerIndex: ${RETRIES:-4}
  maxFailedIndexes: ${MAX_FAILED:-$SHARDS}
  podReplacementPolicy: Failed  # an index has one pod at a time
  podFailurePolicy:
    rules:
    - action: Ignore
      onPodConditions:
      - type: DisruptionTarget
    - action: Ignore
      onExitCodes:
        operator: In
        values: [130, 143]  # saved after a signal
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: ${GRACE_SECS:-120}
END
  if [ -n "${NODE_SELECTOR:-}" ]; then
    echo '      nodeSelector:'
    local pair pairs
    IFS=, read -ra pairs <<<"$NODE_SELECTOR"
    for pair in "${pairs[@]}"; do
      printf '        %s: %s\n' "$(quoted "${pair%%=*}")" "$(quoted "${pair#*=}")"
    done
  fi
  cat <<END
      containers:
      - name: elm
        image: $(quoted "$IMAGE")
        command:
        - bash
        - -c
        - 'exec "\$@" --gin.SHARD="\$JOB_COMPLETION_INDEX/$SHARDS"'
        - elm
END
  local argument
  for argument in "$@"; do
    printf '        - %s\n' "$(quoted "$argument")"
  done
  cat <<END
        resources:
          requests:
            cpu: $(quoted "${CPUS:-8}")
            memory: $(quoted "${MEMORY:-64Gi}")
END
  if [ "${DEVICES:-1}" -gt 0 ]; then
    cat <<END
          limits:
            $(quoted "${RESOURCE:-nvidia.com/gpu}"): ${DEVICES:-1}
END
  fi
  cat <<END
        volumeMounts:
        - name: runs
          mountPath: /runs
      volumes:
      - name: runs
        persistentVolumeClaim:
          claimName: $(quoted "$CLAIM")
END
}

text=$(manifest "$@")
if [ -n "$dry" ]; then
  printf '%s\n' "$text"
  exit
fi
command -v kubectl >/dev/null || fail "no kubectl on this machine." "one with access to a cluster." "Install it, or add --dry_run to see the manifest."
kubectl ${NAMESPACE:+--namespace "$NAMESPACE"} apply -f - <<<"$text"
