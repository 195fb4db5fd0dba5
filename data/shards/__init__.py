"""The bytes of shards, wherever they lie; the unit index; samples.

Doors: `corpus.Corpus/open_corpus`, `listed`, `index`, `units`, `store`, `find.find_documents`, `samples`,
`patience.Patience`; for data/prepare also `compression`, `tar`, `tar_fields`, `parts`, `text`,
`trouble`, `walk`; for data/stream `cache`; for the config's refusal `http_login.VARIABLE`; for messages
`transports.shown`.
"""
