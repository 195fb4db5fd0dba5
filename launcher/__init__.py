"""The command line, config, engine, loop, checkpoints, tracking: the room that knows all the others."""
