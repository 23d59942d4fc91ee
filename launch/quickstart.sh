#!/usr/bin/env bash
# The whole main job on embedded data: base, experts, library, retrieval, merging,
# evaluation, report. Stop it at any time; run it again and it goes on where it was.
#
#   bash launch/quickstart.sh [FOLDER]     # FOLDER: where results go, runs/pocket
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/pocket}
bash launch/install.sh

# The commands have programs in common: what one compiled, the next need not.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

num_steps=13
. launch/steps.sh

# One command seldom keeps two cores busy: what the next steps do not need runs beside them.
beside=()  # Before bash 4.4, an empty array is unbound: hence ${beside[@]+...}.
trap 'kill ${beside[@]+"${beside[@]}"} 2>/dev/null || true' EXIT

run_beside() { # as run
  tell "$1"
  ".venv/bin/$2" --gin_file="gin/pocket/$3.gin" --gin.MODEL_DIR="$out" "${@:4}" &
  beside+=($!)
}
finish_beside() {
  local process
  for process in ${beside[@]+"${beside[@]}"}; do
    wait "$process"
  done
  beside=()
}

run "base: span corruption on unlabelled pocket text" elm_train base
run "prompt experts: adapters and layer norms, one per prompt" elm_train prompt_experts
run_beside "dataset experts: all parameters, one per dataset" elm_train dataset_experts
run_beside "library: 100 keys for each prompt expert" elm_library library
run "multitask baseline: all prompts, the same token budget" elm_train multitask
finish_beside
run "evaluation on unseen tasks" elm_eval evaluate
run_beside "one more expert, later" elm_train new_expert
run "evaluation of experts on their own tasks" elm_eval own_tasks \
  --gin.evaluate.Evaluate.experts='("{MODEL_DIR}/multitask", "{MODEL_DIR}/prompt_experts/*")'
finish_beside
run "merge: two skills for the composed task" elm_merge merge
run "evaluation on the composed task" elm_eval compose
run "a grown library, old keys as they were" elm_library grow
run "evaluation again, with the grown library" elm_eval after
run "report" elm_report report
printf '\ndone in %d s; open %s/report/index.html\n' "$((SECONDS - start))" "$out"
