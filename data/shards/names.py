"""The names of documents: KEY, or SHARD/KEY where a key is not unique.

Other people's shards often number their samples from 0 each, so a key may mean one document of every shard.
SHARD is the last part of the shard's name, or as many of its last parts as tell it from others.
"""

from collections.abc import Container, Iterator


def names_of(shard: str, key: str) -> Iterator[str]:
    """All names of the document `key` of a shard (its name in the index)."""
    yield key
    name, rest = key, shard
    while rest:
        rest, _, last = rest.rpartition("/")
        name = f"{last}/{name}"
        yield name


def full_name(shard: str, key: str) -> str:
    """How a document is shown."""
    return f"{shard.rpartition('/')[2]}/{key}"


def is_named(shard: str, key: str, names: Container[str]) -> bool:
    """Whether a document is among those that are named."""
    return any(name in names for name in names_of(shard, key))


def may_lie_in(name: str, shard: str) -> bool:
    """Whether a name begins with a name of this shard, so that the document lies in it or in one named
    alike."""
    stem = name
    while "/" in stem:
        stem = stem.rpartition("/")[0]
        if shard == stem or shard.endswith("/" + stem):
            return True
    return False
