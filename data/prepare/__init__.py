"""Documents become shards and their index; shards are verified against it.

Doors: `pack.pack`, `build_index.build_index`, `merge_indexes.merge_indexes`, `verify.verify/recorded`,
`parallel.Progress`.
"""
