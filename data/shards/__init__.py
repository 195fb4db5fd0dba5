"""The bytes of shards, wherever they lie; the unit index; samples.

Doors: `corpus.Corpus/open_corpus`, `index`, `store`, `find.find_documents`, `tar.Sample`; for data/prepare
also `compression`, `tar`, `text`, `transports`.
"""
