"""Tensors on disk, every byte checked: a checkpoint is whole or it is not there.

Doors: `catalog` (which there are, which is newest and whole), `save.Checkpoints`, `load.load/read_weights`,
`retention.Retention/steps_in`.
"""
