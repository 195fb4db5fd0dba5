"""The one exception that a user is meant to see.

Everything wrong with what a user brought (a config, a shard, a tokenizer, a full disk) is raised as
BadInput: the command line prints its text as one line and exits with 2. What may be otherwise in a while is
PassingTrouble, and its code 75 asks whoever started the command to start it again. Any other exception is a
bug of headrace and shows its traceback.
"""


class BadInput(Exception):
    """One line: the file, the key or place in it, what was expected, what to do."""

    code = 2
    """The exit code of the command that it ends."""

    def at(self, place: str) -> "BadInput":
        """The same line behind the place that it is of."""
        return BadInput(f"{place}: {self}")


class PassingTrouble(BadInput):
    """A line as BadInput's, of what nobody has to mend here: a node that is down, a name that does not
    resolve for now. The same command may work later."""

    code = 75

    def at(self, place: str) -> "PassingTrouble":
        """See BadInput.at."""
        return PassingTrouble(f"{place}: {self}")
