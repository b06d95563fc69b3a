"""The local executor: commands are child processes, files are files in a directory of this machine."""
