"""What executions change in files: found, recorded, shown as diffs, and put back."""
