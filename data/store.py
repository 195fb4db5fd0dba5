"""Where shards lie and how their bytes are read: local for now."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import BadInput
from data.index import Shard


class ShardTrouble(BadInput):
    """A shard that cannot be read, in one line."""


@dataclass(frozen=True)
class CacheOptions:
    """`data.cache` of the config."""

    folder: str | None = None
    bytes: int = 20 << 30
    retries: int = 5
    timeout: float = 30.0


def is_local(url: str) -> bool:
    return "://" not in url and not url.startswith("pipe:")


def shown(url: str) -> str:
    return url


def expand(shards: Sequence[str]) -> list[str]:
    found: list[str] = []
    for shard in shards:
        names = sorted(glob.glob(shard)) or ([shard] if os.path.exists(shard) else [])
        if not names:
            raise BadInput(f"{shard}: no such shard")
        found += names
    return found


class Store:
    def __init__(self, options: CacheOptions) -> None:
        self.options = options

    def read(self, url: str, shard: Shard, units: np.ndarray, *, fresh: bool = False) -> bytes:
        first, last = units[0], units[-1]
        offset = int(first["offset"])
        length = int(last["offset"] + last["length"]) - offset
        try:
            file = os.open(url, os.O_RDONLY)
            try:
                return os.pread(file, length, offset)
            finally:
                os.close(file)
        except OSError as error:
            raise ShardTrouble(f"{error.strerror}") from error
