"""A start from config to exit code, the session, the loop.

Doors: `train.train/resume/run_rank`, `loop.fit`, `session.Session`.
"""
