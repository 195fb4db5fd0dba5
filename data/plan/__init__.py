"""Which row comes from which block, as arithmetic, and the history of the plan.

Doors: `plan`, `make.make_plan` and its settings, `positions`, `segments`, `steps`, `timeline.Timeline`,
`batch_rows.BatchRows`, `blocks.Blocks`, `block_file.blocks_of`, `epochs.BlockOrder`, `asked_rows`,
`corpus_mix.STREAMS/streams_for`, `ownership.Ownership`, `history_file`.
"""
