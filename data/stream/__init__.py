"""Blocks become rows, rows become batches.

Doors: `loader.Loader/Batch`, `rows.Rows` (the seam to the engine), `held_out.held_out_rows`,
`skipping.SkipNotice`, `token_cache`; for data/provenance
also `block`, `packing.write_rows`, `prefetch`, `reading`, `streams`.
"""
