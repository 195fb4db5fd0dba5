"""Tensors on disk, every byte checked: a checkpoint is whole or it is not there.

Doors: `catalog` (which there are, which is the newest), `read.StoredCheckpoint/Request` (one of them),
`load.load/read_weights` (its tensors, each block checked), `format.Damaged`, `save.Checkpoints`,
`average.write_average`, `retention.Retention/steps_in`, `share.share` (one in a second folder).
"""
