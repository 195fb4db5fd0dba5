"""Whence a row came and where a document went: the log of openings, and look-ups in it.

Doors: `openings.OpeningsLog/merge_openings/read_openings`, `trace.Tracer` and its records, `trace.walk`.
"""
