"""What an example is, the seven objectives, their noise and their mixture. Imports numpy alone."""
