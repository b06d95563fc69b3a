"""Storage in SQLite and files below STATE_DIR."""
