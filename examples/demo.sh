#!/usr/bin/env bash
# The main job in a minute and without a model: the scripted model plays an agent whose tools really run. First a small task,
# and the same execution again from the log. Then the service is killed in the middle of a command, and the execution goes on.
# Everything is written below .demo/, or $DEMO_DIR.
set -euo pipefail
cd "$(dirname "$0")/.."

dir="${DEMO_DIR:-$PWD/.demo}"
id="demo-$(date +%s)"
export STATE_DIR="$dir/state" STIGMER_LLM_PROVIDER=scripted
unset MODE STIGMER_LLM_SCRIPT STIGMER_LLM_MODEL
mkdir -p "$dir"

echo "\$ runner-service run \"Write a small program, run it, and have it reviewed\""
runner-service run --root "$dir/workspace" --id "$id" "Write a small program, run it, and have it reviewed"

half=$(($(runner-service events "$id" --json | wc -l) / 2))
echo
echo "The same execution from the log, as a caller sees it that comes back after event $half:"
echo
echo "\$ runner-service events $id --after $half"
runner-service events "$id" --after "$half"

# The second act has a state of its own: the service of the first may still be there, with another script.
export STATE_DIR="$dir/crash" STIGMER_LLM_SCRIPT="$PWD/examples/crash.yaml"
rm -f "$dir/workspace/steps.txt"
echo
echo "Now the service is killed in the middle of a command:"
echo
echo "\$ runner-service run \"Do eight steps\" &"
runner-service run --plain --root "$dir/workspace" --id "$id-crash" "Do eight steps" &
run=$!
until [ "$(cat "$dir/workspace/steps.txt" 2>/dev/null | wc -l)" -ge 3 ]; do
    kill -0 "$run" 2>/dev/null || { wait "$run"; exit 1; }
    sleep 0.05
done
service="$(sed 's/.*"pid": \([0-9]*\).*/\1/' "$STATE_DIR/service.json")"
echo "\$ kill -9 $service"
kill -9 "$service"
wait "$run"

events="$(runner-service events "$id-crash" --json | wc -l)"
last="$(runner-service events "$id-crash" --json | tail -n 1 | sed 's/.*"sequence": "\([0-9]*\)".*/\1/')"
echo
echo "$events events are in the log, the last one is number $last, and each step was done once:"
echo
echo "\$ cat steps.txt"
cat "$dir/workspace/steps.txt"
