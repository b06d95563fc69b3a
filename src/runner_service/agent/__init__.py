"""The agent loop, on deepagents. Its libraries are heavy; `loader` imports them in a thread once the service serves."""
