"""Integration with the Stigmer daemon: reads executions by id and reports their status back."""
