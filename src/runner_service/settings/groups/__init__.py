"""The variables, by what they set up. `Settings` is made of these groups, and keeps their order."""
