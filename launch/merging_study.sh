#!/usr/bin/env bash
# What merge methods are worth, on the world of launch/study.sh: the three experts that
# are retrieved, all experts, and the two parts of the composed task, by each method.
# Stop it at any time; run it again and it goes on where it was.
#
#   bash launch/merging_study.sh [FOLDER]     # FOLDER: of launch/study.sh, runs/study
#
# Settings of the environment:
#   SEEDS="42 43 44"   training seeds, by default five
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/study}
read -ra seeds <<<"${SEEDS:-42 43 44 45 46}"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/compiled}

run() {
  printf '\n%s (%d s so far)\n' "$1" "$SECONDS"
  local binary=$2 gin_file=$3
  shift 3
  ".venv/bin/$binary" --gin_file="gin/pocket/$gin_file.gin" --gin.MODEL_DIR="$out" "$@"
}

results='{MODEL_DIR}/results_merging.jsonl'
for seed in "${seeds[@]}"; do
  of="of seed $seed"
  dataset="{MODEL_DIR}/dataset_experts/seed$seed"
  parts="('$dataset/pocket_topics', '$dataset/pocket_reviews')"
  merged="{MODEL_DIR}/merged_study/seed$seed"
  for method in uniform task_arithmetic ties covariance wudi ace; do
    run "two parts by $method $of" elm_merge merge --gin.merge.Merge.method="$method" \
      --gin.merge.Merge.experts="$parts" --gin.merge.Merge.experts_dir="$merged" \
      --gin.merge.Merge.expert_name="$method"
  done
  run "two parts by regmean $of" elm_merge merge_by_data \
    --gin.merge.Merge.experts="$parts" --gin.merge.Merge.experts_dir="$merged" \
    --gin.merge.Merge.expert_name=regmean
  run "two parts by fisher $of" elm_merge merge_by_data --gin.merge.Merge.method=fisher \
    --gin.merge.Merge.experts="$parts" --gin.merge.Merge.experts_dir="$merged" \
    --gin.merge.Merge.expert_name=fisher
  run "two parts by a swept sum $of" elm_merge merge_search \
    --gin.merge.Merge.experts="$parts" --gin.merge.Merge.experts_dir="$merged" \
    --gin.merge.Merge.expert_name=swept_sum
  candidates="('$merged/*', '$dataset/pocket_topics', '$dataset/pocket_reviews')"
  run "composed task $of" elm_eval compose \
    --gin.evaluate.Evaluate.experts="$candidates" \
    --gin.evaluate.Evaluate.results_path="$results"
  run "tasks of the parts $of" elm_eval own_tasks \
    --gin.evaluate.Evaluate.experts="$candidates" \
    --gin.evaluate.Evaluate.results_path="$results"
  run "retrieved and all experts $of" elm_eval merging_study \
    --gin.queries.Queries.library_dir="{MODEL_DIR}/library/seed$seed"
done
