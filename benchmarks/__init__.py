"""What the service costs, measured side by side with what it stands on and with its peers. See docs/performance.md."""
