"""Layouts in which a rank does not run the whole model over whole rows: stages of a pipeline (`pipeline`),
columns of long rows (`sequence`), shares of every block (`tensor`)."""
