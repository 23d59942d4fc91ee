#!/usr/bin/env bash
# What merge methods are worth, on the world of launch/study.sh: the three experts that
# are retrieved, all experts, and the two parts of the composed task, by each method; and
# the same of LoRA experts of the same prompts.
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
. launch/steps.sh

search_retrieved() { # votes of tasks, folders of experts and of merges, flags of scores...
  local experts=$2 merged=$3 task first_three retrieved
  retrieved=$(.venv/bin/python -c '
import json, sys
votes_path, experts = sys.argv[1:]
for line in open(votes_path):
    row = json.loads(line)
    print(row["task"], tuple(f"{experts}/{name}" for name, _ in row["votes"][:3]))
' "$out/$1.jsonl" "$experts")
  shift 3
  while read -r task first_three <&3; do
    run "$task by searches in $experts" elm_merge merging_retrieved \
      --gin.merge_stages.Stages.stages="$searches" \
      --gin.TASKS="'$task'" --gin.EXPERTS="$first_three" --gin.EXPERTS_DIR="'$merged/$task'"
    run "scores of these" elm_eval merging_scores "$@" \
      --gin.EXPERTS="('$merged/$task/top3_*',)" --gin.TASKS="('$task',)"
  done 3<<<"$retrieved"
}
search_all() { # folders of experts and of merges, flags of scores...
  local experts=$1 merged=$2
  shift 2
  run "all by searches in $experts" elm_merge merging_all \
    --gin.merge_stages.Stages.stages="$searches" \
    --gin.EXPERTS="('$experts/*',)" --gin.EXPERTS_DIR="'$merged'"
  # Beside the unseen tasks those of gin/pocket/merging_held_in.gin.
  run "scores of these" elm_eval merging_scores "$@" --gin.EXPERTS="('$merged/all_*',)" \
    --gin.TASKS="('pocket_unseen', 'pocket_kinds_what_are', 'pocket_moods_was',
      'pocket_paraphrases_same_meaning', 'pocket_people_who_is_it',
      'pocket_reviews_sentiment', 'pocket_topics_topic', 'pocket_work_needs')"
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
searches="(@soup/merge.Merge(), @lorahub/merge.Merge(), @lorahub_searched/merge.Merge(),
  @adamerging/merge.Merge())"
for seed in "${seeds[@]}"; do
  experts="{MODEL_DIR}/prompt_experts/seed$seed"
  merged="{MODEL_DIR}/merged_study/seed$seed"
  run "retrieved and all experts of seed $seed" elm_eval merging_study \
    --gin.queries.Queries.library_dir="{MODEL_DIR}/library/seed$seed"
  search_retrieved votes_merging "$experts" "$merged"
  search_all "$experts" "$merged"
done
for seed in "${seeds[@]}"; do
  run "the same on tasks with experts of seed $seed" elm_eval merging_held_in \
    --gin.queries.Queries.library_dir="{MODEL_DIR}/library/seed$seed" \
    --gin.EXPERTS="('{MODEL_DIR}/prompt_experts/seed$seed/*',)"
done
all="$(IFS=,; echo "${seeds[*]}")"
run "LoRA experts" elm_train lora_prompt_experts --gin.train.Train.random_seed="($all,)"
searches="(@soup/merge.Merge(), @lorahub_searched/merge.Merge())"
of_loras=(--gin.evaluate.Evaluate.results_path="{MODEL_DIR}/results_merging_lora.jsonl")
for seed in "${seeds[@]}"; do
  experts="{MODEL_DIR}/lora_prompt_experts/seed$seed"
  library="{MODEL_DIR}/lora_library/seed$seed"
  merged="{MODEL_DIR}/merged_lora/seed$seed"
  run "library of LoRA experts of seed $seed" elm_library library \
    --gin.EXPERTS="$experts/*" --gin.library.BuildLibrary.library_dir="$library"
  for scores in merging_lora merging_lora_held_in; do
    run "$scores of seed $seed" elm_eval "$scores" \
      --gin.queries.Queries.library_dir="$library" --gin.EXPERTS="('$experts/*',)"
  done
  search_retrieved votes_merging_lora "$experts" "$merged" "${of_loras[@]}"
  search_all "$experts" "$merged" "${of_loras[@]}"
done
for flag in "" --lora; do
  .venv/bin/python tests/benchmarks/merging_study_table.py "$out" --seeds="$all" ${flag:+"$flag"}
done
