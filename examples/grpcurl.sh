#!/usr/bin/env bash
# The service by hand, with grpcurl and the service's own reflection: start an execution, look on from the middle, read
# what its command wrote, list.
#
#   examples/grpcurl.sh [ADDRESS]        with a token: AUTH_TOKEN=… examples/grpcurl.sh
set -euo pipefail

address=${1:-localhost:50051}
id=grpcurl-$$-$RANDOM
service=runner_service.v1.AgentRunnerService

# grpcurl fills in the variable itself, so that the token is in no list of processes.
options=(-plaintext -expand-headers)
[ -z "${AUTH_TOKEN:-}" ] || options+=(-H 'authorization: Bearer ${AUTH_TOKEN}')

call() { # METHOD REQUEST
  grpcurl "${options[@]}" -d "$2" "$address" "$service/$1"
}

echo "# what there is to call"
grpcurl "${options[@]}" "$address" list "$service"

echo "# run an agent and follow it to its end"
call ExecuteAgent "{\"execution_id\": \"$id\", \"agent\": {\"name\": \"example\"}, \"message\": \"echo hello\"}"

echo "# the same, from the third event on"
call WatchExecution "{\"execution_id\": \"$id\", \"after_sequence\": 2}" | head -n 12 || true

echo "# where it stands"
call GetExecution "{\"execution_id\": \"$id\"}"

echo "# the newest executions"
call ListExecutions '{"page_size": 3}'
