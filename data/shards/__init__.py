"""The bytes of shards, wherever they lie; the unit index; samples.

Doors: `corpus.Corpus/open_corpus`, `index`, `store`, `find.find_documents`, `tar.Sample`,
`patience.Patience`; for data/prepare also `compression`, `tar`, `trouble`; for the config's refusal
`http_login.VARIABLE`.
"""
