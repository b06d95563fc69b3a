"""`python -m runner_service` is the command line."""

from runner_service.cli import main

main()
