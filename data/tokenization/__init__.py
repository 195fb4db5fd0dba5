"""SentencePiece as the objectives see it; a tokenizer trained from shards, and checked against them.

Doors: `tokenizer.Tokenizer`, `train.train`, `check.check/CheckReport`.
"""
