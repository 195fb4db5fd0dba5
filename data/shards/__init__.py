"""Tar shards: the unit index, units and what is in them, samples.

Doors: `corpus.Corpus/open_corpus`, `listed`, `index`, `units`, `store`, `find.find_documents`, `samples`; for
data/prepare and data/sources also `tar`, `tar_fields`, `parts`, `text`, `walk`.
"""
