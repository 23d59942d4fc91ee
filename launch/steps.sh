#!/usr/bin/env bash
# The steps of scripts that run the embedded suite. They source this file, after they have
# set `out`, the folder of all results, and `num_steps` if they know how many there are.
step=0
start=$SECONDS

tell() { # title of the next step
  step=$((step + 1))
  local number=${num_steps:+[$step/$num_steps] }
  printf '\n%s%s (%d s so far)\n' "$number" "$1" "$((SECONDS - start))"
}

run() { # title, binary, gin file in gin/pocket, flags...
  tell "$1"
  local binary=$2 gin_file=$3
  shift 3
  ".venv/bin/$binary" --gin_file="gin/pocket/$gin_file.gin" --gin.MODEL_DIR="${out:?}" "$@"
}
