"""What an example is, the objectives, their noise and their mixture. Imports numpy alone."""
