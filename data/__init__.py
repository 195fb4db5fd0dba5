"""Shards and their index, tokenizer, lanes, packing, loader, preparation. Imports objectives alone."""
