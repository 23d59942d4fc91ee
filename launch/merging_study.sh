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

for seed in "${seeds[@]}"; do
  of="of seed $seed"
  dataset="{MODEL_DIR}/dataset_experts/seed$seed"
  merged="{MODEL_DIR}/merged_study/seed$seed"
  run "two parts $of" elm_merge merging_parts --gin.EXPERTS_DIR="$merged" \
    --gin.TOPICS="$dataset/pocket_topics" --gin.REVIEWS="$dataset/pocket_reviews"
  run "composed task and tasks of the parts $of" elm_eval merging_scores \
    --gin.EXPERTS="('$merged/parts_*', '$dataset/*')"
done
for seed in "${seeds[@]}"; do
  run "retrieved and all experts of seed $seed" elm_eval merging_study \
    --gin.queries.Queries.library_dir="{MODEL_DIR}/library/seed$seed"
done
for seed in "${seeds[@]}"; do
  run "the same on tasks with experts of seed $seed" elm_eval merging_held_in \
    --gin.queries.Queries.library_dir="{MODEL_DIR}/library/seed$seed"
done
for seed in "${seeds[@]}"; do
  merged="{MODEL_DIR}/merged_study/seed$seed"
  run "all experts by searches of seed $seed" elm_merge merging_all \
    --gin.EXPERTS="{MODEL_DIR}/prompt_experts/seed$seed/*" --gin.EXPERTS_DIR="$merged"
  run "scores of these of seed $seed" elm_eval merging_scores \
    --gin.EXPERTS="('$merged/all_*',)" --gin.TASKS="('pocket_unseen',)"
done
all="$(IFS=,; echo "${seeds[*]}")"
.venv/bin/python tests/benchmarks/merging_study_table.py "$out" --seeds="$all"
