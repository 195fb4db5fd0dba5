"""The one exception that a user is meant to see.

Everything wrong with what a user brought (a config, a shard, a tokenizer, a full disk) is raised as
BadInput: the command line prints its text as one line and exits with 2. Any other exception is a bug of
headrace and shows its traceback.
"""


class BadInput(Exception):
    """One line: the file, the key or place in it, what was expected, what to do."""
