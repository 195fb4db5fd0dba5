"""Blocks become rows, rows become batches.

Doors: `loader.Loader/Batch`, `rows.Rows` (the seam to the engine), `held_out.evaluation_rows`,
`skipping.SkipNotice`, `mixing.StepDraws`, `token_cache`; for data/provenance
also `block`, `packing.write_rows`, `prefetch`, `reading`, `streams`.
"""
