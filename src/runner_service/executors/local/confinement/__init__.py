"""Confinement of local commands: a cell of namespaces for each execution, made by bubblewrap."""
