#!/bin/sh
# gate.sh BASE RUN: evaluate this branch as RUN. It fails with 1 where the prompt scores below 0.9,
# or worse than in the run BASE, which the main branch has left in the store.
set -eu
base="$1" run="$2"
if agentensor runs show "$base" > /dev/null 2>&1; then
  code=0
  agentensor evaluate --run-id "$run" --cache --min-score 0.9 --baseline "$base" --max-drop 0.02 ||
    code=$?
  agentensor report "$base" "$run" --output comment.md --force
  exit "$code"
fi
agentensor evaluate --run-id "$run" --cache --min-score 0.9
