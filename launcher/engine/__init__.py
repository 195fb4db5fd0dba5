"""One optimizer step, with one face over every layout.

Doors: `engine.Engine`, `interface`, `forward`, `stages`, `layout.LayoutConfig`,
`optimizer.OptimizerConfig/lr_at/decay_steps`, `sharded_state.StateMap`, `replicas`, `cut`, `ema`, `memory`,
`host_memory.host_memory_free`, `footprint`, `compiler`.
"""
