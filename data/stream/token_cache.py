"""The token cache: the encoded text of each block in a file, so that a node encodes it once.

The ranks of a node that read the same block, later epochs, and later starts take it from there:

    key     the tokenizer, how samples are read, and of each unit what the index says: checksum, lengths, part
    hit     the file is read and its checksum verified; no shard is read, and nothing is encoded
    miss    the first who announces the key encodes; the others wait for the file, but no longer than it would
            take them to make it themselves, five times over

Reading never depends on it, only speed does. Files are bounded, shared and evicted as data/access/cache.py
says; the folder may be deleted at any moment. Who encodes announces it by an empty file beside them: advice,
not a lock. Whoever waited in vain takes it over, so a process that was killed holds up the others once, for a
second or so. What is damaged is told of and made again; a disk that is full or cannot be written is told of
once, and the run goes on without it.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import xxhash

from data.access.cache import Cache, TooLarge
from data.shards.corpus import Corpus
from data.stream.encoded import VERSION, EncodedUnits

_GIB = 64.0
_POLL = 0.02
_AT_LEAST, _BYTES_A_SECOND = 1.0, 2e6
"""How long another's work is waited for: a fifth of the pace at which one core encodes."""
_OF_A_UNIT = ("samples", "length", "text_bytes", "checksum")


@dataclass(frozen=True)
class TokenCacheOptions:
    """`data.token_cache` of the config: encoded text that is kept on a disk of the node."""

    folder: str | None = None
    """Where it is kept; none: text is encoded again at each opening of a block."""
    gib: float = _GIB
    """Bound of the folder, in GiB; the text of an epoch takes about half its bytes."""

    def __post_init__(self) -> None:
        if self.folder is not None and (not self.folder or "://" in self.folder):
            raise ValueError(f"folder: expected a folder on a disk, or none, got {self.folder!r}")
        if not (math.isfinite(self.gib) and self.gib > 0):
            raise ValueError(f"gib: expected a number above 0, got {self.gib}")
        if self.folder is None and self.gib != _GIB:
            raise ValueError("gib: bounds a folder, and none is named: set folder beside it, or leave it out")


class TokenCache:
    """May be used from several threads and processes."""

    def __init__(self, folder: str, gib: float, tell: Callable[[str], None]) -> None:
        """tell: called with a line for the user where a file is damaged, or none can be written."""
        self._files = Cache(folder, int(gib * 2**30))
        self._tell = tell
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._writes = True
        self.hits = self.made = 0
        """Blocks that were found, and that were not."""

    def obtain(self, key: bytes, text_bytes: int, make: Callable[[], EncodedUnits]) -> EncodedUnits:
        """What is kept under the key, else what `make` gives for it, which is kept from then on. text_bytes:
        about so many of text."""
        found = self._read(key)
        if found is None and self._writes:
            found = self._of_another(key, _AT_LEAST + text_bytes / _BYTES_A_SECOND)
        with self._lock:
            self.hits += found is not None
            self.made += found is None
        if found is not None:
            return found
        try:
            made = make()
            self._write(key, made)
            return made
        finally:
            self._files.withdraw(key.hex())

    def _read(self, key: bytes) -> EncodedUnits | None:
        file = self._files.open(key.hex())
        if file is None:
            return None
        try:
            with file:
                return EncodedUnits.from_bytes(file.read(), key)
        except (ValueError, OSError) as error:
            what = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            self._once("damaged", f"{self._files.path(key.hex())} {what}; its text is encoded again")
            self._files.remove(key.hex())
            return None

    def _write(self, key: bytes, units: EncodedUnits) -> None:
        if not self._writes:
            return
        content = units.to_bytes(key)
        with self._trouble_told():
            try:
                self._files.put(key.hex(), [content]).close()
            except FileNotFoundError:  # the folder was deleted at this moment
                self._files.put(key.hex(), [content]).close()

    def _announce(self, key: bytes) -> bool:
        """Whether this is the one who encodes; the others look for what comes of it."""
        with self._trouble_told():
            try:
                return self._files.announce(key.hex())
            except FileNotFoundError:  # the folder was deleted at this moment
                return self._files.announce(key.hex())
        return True

    def _of_another(self, key: bytes, seconds: float) -> EncodedUnits | None:
        """What another makes of the key at this time. None where nobody does, or it was not made in so many
        seconds, or given up: then it is announced that this one makes it."""
        end = time.monotonic() + seconds
        waited = not self._announce(key)
        while waited and self._files.is_announced(key.hex()) and time.monotonic() < end:
            time.sleep(_POLL)
        found = self._read(key)  # also where nobody was waited for: it may have been made a moment ago
        if found is None and waited:
            self._files.withdraw(key.hex())
            self._announce(key)
        elif found is not None and not waited:
            self._files.withdraw(key.hex())
        return found

    @contextmanager
    def _trouble_told(self) -> Iterator[None]:
        """What the file system refuses within it is told of, and nothing more is written."""
        try:
            yield
        except TooLarge:
            self._once("small", "gib is too little for a block of text; raise it: this one is not kept")
        except OSError as error:
            self._writes = False
            self._once(
                "write",
                f"{self._files.folder}: {error.strerror or error}; nothing more is kept there, and text is "
                "encoded as without it",
            )

    def _once(self, kind: str, line: str) -> None:
        with self._lock:
            if kind in self._told:
                return
            self._told.add(kind)
        self._tell(f"data.token_cache: {line}")


def token_cache(options: TokenCacheOptions, tell: Callable[[str], None]) -> TokenCache | None:
    """The cache that is asked for, if one is."""
    return TokenCache(options.folder, options.gib, tell) if options.folder else None


def key_of(corpus: Corpus, units: Sequence[int], encoding: str) -> bytes:
    """16 bytes that name what these units of one shard hold, by the index alone. encoding: names what the
    tokenizer makes of text."""
    rows = corpus.index.units[np.asarray(units, dtype=np.int64)]
    placed = [corpus.index.placed_at(unit) for unit in units] if len(corpus.table.placed) else []
    parts = [
        (one.key, one.kind, one.problem, unit - one.unit, one.parts) if one else None
        for unit, one in zip(units, placed)
    ]
    digest = xxhash.xxh3_128(json.dumps([VERSION, encoding, asdict(corpus.index.reading), parts]).encode())
    for name in _OF_A_UNIT:
        digest.update(rows[name].tobytes())
    return digest.digest()
