"""Raw text becomes shards and their index; shards are verified against it.

Doors: `pack.pack`, `build_index.build_index`, `verify.verify/recorded`, `parallel.Progress`.
"""
