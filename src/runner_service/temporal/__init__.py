"""The Temporal worker: runs agents as activities, for the Stigmer daemon and for any workflow."""
