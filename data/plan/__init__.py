"""Which row comes from which block, as arithmetic, and the history of the plan.

Doors: `plan`, `make.make_plan` and its settings, `positions`, `segments`, `steps`, `blocks.Blocks`,
`epochs.BlockOrder`, `held_out.held_out_units`, `asked_rows`, `corpus_mix.STREAMS/streams_for`,
`ownership.Ownership`, `history_file`.
"""
