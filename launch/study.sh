#!/usr/bin/env bash
# The quickstart's world with several trainings of every expert, multitask model and
# merge, so that intervals and claims are about trainings, too. Stop it at any time; run
# it again and it goes on where it was, also with more seeds.
#
#   bash launch/study.sh [FOLDER]     # FOLDER: where results go, runs/study
#
# Settings of the environment:
#   SEEDS="42 43 44"   training seeds, by default five
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/study}
read -ra seeds <<<"${SEEDS:-42 43 44 45 46}"
bash launch/install.sh

mkdir -p "$out"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/compiled}
num_steps=$((9 + 7 * ${#seeds[@]}))
. launch/steps.sh

number=${#seeds[@]}
all="($(printf '%s, ' "${seeds[@]}"))"
train() {
  local what=$1 gin_file=$2
  shift 2
  run "$what, $number seeds" elm_train "$gin_file" --gin.train.Train.random_seed="$all" "$@"
}

run "base: span corruption on unlabelled pocket text" elm_train base
train "prompt experts" prompt_experts
train "dataset experts" dataset_experts
train "multitask baseline" multitask --gin.options.Results.experts_dir='{MODEL_DIR}/multitask'
train "experts that come later" new_expert
train "a control: the labelled rows alone" selection \
  --gin.options.Results.experts_dir='{MODEL_DIR}/selection'

for seed in "${seeds[@]}"; do
  of="of seed $seed"
  prompt="{MODEL_DIR}/prompt_experts/seed$seed/*"
  dataset="{MODEL_DIR}/dataset_experts/seed$seed"
  library="{MODEL_DIR}/library/seed$seed"
  grown="{MODEL_DIR}/library/seed${seed}_grown"  # beside the one that it extends
  merged="{MODEL_DIR}/merged/seed$seed"
  parts="'$dataset/pocket_topics', '$dataset/pocket_reviews'"
  run "library $of" elm_library library --gin.EXPERTS="$prompt" \
    --gin.library.BuildLibrary.library_dir="$library"
  run "unseen tasks: experts, retrieval and merging $of" elm_eval evaluate \
    --gin.evaluate.Evaluate.experts="('{MODEL_DIR}/multitask/seed$seed/*', '$prompt', '$dataset/*')" \
    --gin.library.Retrieve.library_dir="$library"
  run "own tasks: experts $of" elm_eval own_tasks \
    --gin.evaluate.Evaluate.experts="('$prompt',)"
  run "merge $of" elm_merge merge --gin.merge.Merge.experts="($parts)" \
    --gin.merge.Merge.experts_dir="$merged"
  run "composed task: merge and its parts $of" elm_eval compose \
    --gin.evaluate.Evaluate.experts="('$merged/*', $parts)"
  run "a grown library $of" elm_library grow \
    --gin.EXPERTS="{MODEL_DIR}/later/seed$seed/*" \
    --gin.library.BuildLibrary.library_dir="$grown" \
    --gin.library.BuildLibrary.extends="$library"
  run "unseen and own tasks again $of" elm_eval after \
    --gin.evaluate.Evaluate.experts="('$prompt',)" \
    --gin.library.Retrieve.library_dir="$grown"
done

run "unseen tasks: the control" elm_eval evaluate \
  --gin.evaluate.Evaluate.experts="('{MODEL_DIR}/selection/*/*',)" \
  --gin.evaluate.Evaluate.strategies='("retrieved",)' \
  --gin.evaluate.Evaluate.overlap='"mark"' \
  --gin.library.Retrieve.library_dir="{MODEL_DIR}/library/seed${seeds[0]}"
run "text formats, embedders and rules of votes" elm_library compare_retrieval \
  --gin.retrieval_comparison.CompareRetrieval.library_dir="{MODEL_DIR}/library/seed${seeds[0]}"
run "report" elm_report report
printf '\ndone in %d s; open %s/report/index.html\n' "$((SECONDS - start))" "$out"
