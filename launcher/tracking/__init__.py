"""The records of a running attempt, and who sees them: metrics.jsonl, the console, wandb.

Doors: the types of `records`, `tracker.Tracker`, `start.tracking`, `wandb_feed.sync`.
"""
