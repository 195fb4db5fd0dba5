"""A start from config to exit code, the session, the loop.

Doors: `train.train`, `train.resume`.
"""
