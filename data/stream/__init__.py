"""Blocks become rows, rows become batches.

Doors: `loader.Loader/Batch`, `rows.Rows` (the seam to the engine), `held_out.heldout_rows`; for
data/provenance also `block`, `packing.lay`, `prefetch`, `reading`, `streams`.
"""
