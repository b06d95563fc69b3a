"""Finds what changed in a directory. Runs below the supervisor, in an interpreter without site packages."""
