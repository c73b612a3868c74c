#!/usr/bin/env bash
# Is this branch slower than what it branched from? Both are installed, each in an environment of its own, and measured
# side by side, here and now. All words are passed on to `bench compare`:
#
#     ci/pre-merge.sh --model MobileNetV2 --backend onnxruntime
#
#   BASE           what to compare with                           origin/main
#   REQUIREMENTS   what pip installs on each side                 requirements.txt
#   MODEL_FILE     a model file of the repository that may change (none: name models with --model)
#   BENCH_PACKAGE  what pip installs as bench                     bench[cpu]
#   PYTHON         with which environments are made               python3
#
# The exit code is that of bench: 0 no slower, 1 slower or broken, 2 a mistake in the words, 3 not possible here, 4 can't
# be told.
set -euo pipefail

root=$(git rev-parse --show-toplevel)
base=$(git merge-base "${BASE:-origin/main}" HEAD)
place=$(mktemp -d)

clean_up() {
    git -C "$root" worktree remove --force "$place/base" || true
    rm -rf "$place"
}
trap clean_up EXIT

# What the two sides need: their own requirements, and what bench's worker imports there.
environment() { # name, folder of the side
    "${PYTHON:-python3}" -m venv "$place/$1-env"
    "$place/$1-env/bin/pip" install --quiet msgspec numpy psutil -r "$2/${REQUIREMENTS:-requirements.txt}"
}

git -C "$root" worktree add --quiet --detach "$place/base" "$base"
environment base "$place/base"
environment head "$root"
"${PYTHON:-python3}" -m venv "$place/bench-env"
"$place/bench-env/bin/pip" install --quiet "${BENCH_PACKAGE:-bench[cpu]}"

sides=()
if [ -n "${MODEL_FILE:-}" ]; then
    sides=("$place/base/$MODEL_FILE" "$root/$MODEL_FILE")
fi
"$place/bench-env/bin/bench" compare \
    --python-a "$place/base-env/bin/python" --python-b "$place/head-env/bin/python" ${sides[@]+"${sides[@]}"} "$@"
