#!/usr/bin/env bash
# Builds the image with what is there. BASE names another base image, best by digest (NAME@sha256:…), TAG another tag.
set -euo pipefail
cd "$(dirname "$0")/.."
arguments=(--file deploy/Dockerfile --tag "${TAG:-runner-service:latest}" ${BASE:+--build-arg "BASE=$BASE"} .)
if command -v buildah >/dev/null; then
  exec buildah build --isolation "${ISOLATION:-chroot}" "${arguments[@]}"
elif command -v docker >/dev/null; then
  exec docker build "${arguments[@]}"
fi
echo "Neither buildah nor docker is installed; on Debian: apt install buildah" >&2
exit 1
