"""`python -m launcher.cli`: the `headrace` command, for a checkout that is not installed."""

from launcher.cli.main import main

main()
