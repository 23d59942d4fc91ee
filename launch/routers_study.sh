#!/usr/bin/env bash
# What routers are worth, on the world of launch/study.sh: pools of answers, token routers
# and two stages of them are scored with the experts of each training, and one table tells
# the means over trainings, on unseen tasks and on those that the experts were trained on,
# and another one compares two stages. Stop it at any time; run it again and it goes on
# where it was.
#
#   bash launch/routers_study.sh [FOLDER]     # FOLDER: of launch/study.sh, runs/study
#
# Settings of the environment:
#   SEEDS="42 43 44"   training seeds, by default five
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/study}
read -ra seeds <<<"${SEEDS:-42 43 44 45 46}"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/compiled}
. launch/steps.sh

# Those with answer choices, 14 of 20. Their splits have some rows in common.
held_in=(
  --gin.MIXTURE_OR_TASK_NAME='("pocket_kinds_*", "pocket_moods_*", "pocket_paraphrases_*",
    "pocket_people_*", "pocket_reviews_*", "pocket_topics_*", "pocket_work_*")'
)
held_in_scores=(
  "${held_in[@]}" --gin.evaluate.Evaluate.overlap=mark
  --gin.evaluate.Evaluate.splits='("validation",)'
)
libraries=()
libraries_mixed=()
results_mixed="{MODEL_DIR}/results_mixed.jsonl"
for seed in "${seeds[@]}"; do
  of="of seed $seed"
  library="{MODEL_DIR}/library/seed$seed"
  libraries+=("'$library'")
  library_flags=(--gin.queries.Queries.library_dir="$library")
  run "pooled answers $of" elm_eval pool "${library_flags[@]}"
  for reads in adapter sub_layer; do
    run "what routers have to know of experts $of, by $reads" elm_library observe \
      --gin.observe.Observe.library_dir="$library" --gin.READS="$reads"
  done
  run "token routers $of" elm_eval route_tokens "${library_flags[@]}"
  run "two stages $of" elm_eval route_in_stages "${library_flags[@]}"
  run "experts on held-in tasks $of" elm_eval evaluate "${held_in_scores[@]}" \
    --gin.evaluate.Evaluate.experts="('{MODEL_DIR}/prompt_experts/seed$seed/*',)" \
    --gin.evaluate.Evaluate.strategies='("base", "merged_all")' \
    --gin.library.Retrieve.library_dir="$library"
  run "pooled answers on held-in tasks $of" elm_eval pool "${library_flags[@]}" \
    "${held_in_scores[@]}"
  run "token routers on held-in tasks $of" elm_eval route_tokens "${library_flags[@]}" \
    "${held_in_scores[@]}"

  # A file of its own: in one file a strategy counts by its newest library alone.
  if [ -e "$out/results.jsonl" ] && [ ! -e "$out/results_mixed.jsonl" ]; then
    cp "$out/results.jsonl" "$out/results_mixed.part"
    mv "$out/results_mixed.part" "$out/results_mixed.jsonl"
  fi
  mixed="{MODEL_DIR}/library_mixed/seed$seed"
  libraries_mixed+=("'$mixed'")
  run "library with dataset experts $of" elm_library library \
    --gin.EXPERTS="('{MODEL_DIR}/prompt_experts/seed$seed/*',
      '{MODEL_DIR}/dataset_experts/seed$seed/*')" \
    --gin.library.BuildLibrary.library_dir="$mixed"
  run "pooled answers with dataset experts $of" elm_eval pool \
    --gin.queries.Queries.library_dir="$mixed" \
    --gin.evaluate.Evaluate.results_path="$results_mixed"
done

all="($(printf '%s, ' "${libraries[@]}"))"
run "unseen tasks: all routers" elm_library compare_routers --gin.LIBRARIES="$all"
run "unseen tasks: two stages" elm_library compare_stages --gin.LIBRARIES="$all"
run "held-in tasks: all routers" elm_library compare_routers --gin.LIBRARIES="$all" \
  "${held_in[@]}" --gin.SPLITS='("validation",)' \
  --gin.OUTPUT='{MODEL_DIR}/report/routers_held_in.md'

all_mixed="($(printf '%s, ' "${libraries_mixed[@]}"))"
run "unseen tasks: routers with dataset experts" elm_library compare_routers_mixed \
  --gin.LIBRARIES="$all_mixed" --gin.RESULTS="$results_mixed"
