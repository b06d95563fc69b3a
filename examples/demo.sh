#!/usr/bin/env bash
# The main job, in a minute and without a model: a real agent loop with really running tools, played by the scripted model;
# then the same execution once more from the log, from the middle on. Everything it writes is below .demo/, or $DEMO_DIR.
set -euo pipefail
cd "$(dirname "$0")/.."

dir="${DEMO_DIR:-$PWD/.demo}"
id="demo-$(date +%s)"
export STATE_DIR="$dir/state" STIGMER_LLM_PROVIDER=scripted
unset MODE STIGMER_LLM_SCRIPT

mkdir -p "$dir"
echo "\$ runner-service run \"Write a small program, run it, and have it reviewed\""
runner-service run --root "$dir/workspace" --id "$id" "Write a small program, run it, and have it reviewed"

half=$(($(runner-service events "$id" --json | wc -l) / 2))
echo
echo "The same execution from the log, as a caller sees it that comes back after event $half:"
echo
echo "\$ runner-service events $id --after $half"
runner-service events "$id" --after "$half"
