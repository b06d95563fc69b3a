#!/bin/sh
# Prints the subjects of the commits since the last tag, or all of them if there is none.
last=$(git describe --tags --abbrev=0 2>/dev/null) && range="$last..HEAD" || range=HEAD
git log --no-merges --format='%h %s' "$range"
