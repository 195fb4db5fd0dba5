"""The command line: names, words and options of the commands. Bodies import what they call lazily.

Door: `main.main`, the `headrace` command. Nobody imports this package.
"""
