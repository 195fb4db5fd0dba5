"""How a file is read, by the end of its name in small letters; and what to do where it is not."""

import os
from typing import NamedTuple

TEXT, LINES, JSON, PARQUET = "text", "lines", "json", "parquet"
READ = ".txt .md .py .jsonl .ndjson .json (each also .gz or .zst) .parquet"

_FORMATS = {".txt": TEXT, ".md": TEXT, ".py": TEXT, ".jsonl": LINES, ".ndjson": LINES, ".json": JSON}
_PACKINGS = {".gz": "gzip", ".zst": "zstd"}
_REMEDIES = {
    "write its rows as .jsonl or .parquet": ".csv .tsv .xls .xlsx .ods .arrow .feather .orc .avro .db",
    "write its text as .txt or .jsonl": ".html .htm .xml .pdf .doc .docx .odt .rtf .epub .ipynb .warc",
    "unpack it, or pack it as .gz or .zst": ".bz2 .xz .zip .7z .rar .lz4 .lzma .br .z .zstd",
    "shards are for headrace data index, other archives to be unpacked": ".tar .tgz .tzst",
    "rename it to .jsonl": ".jl .jsonlines .ldjson",
}
_REMEDY = {suffix: remedy for remedy, suffixes in _REMEDIES.items() for suffix in suffixes.split()}


class Format(NamedTuple):
    """TEXT, LINES, JSON or PARQUET, and what it is packed as: 'plain', 'gzip' or 'zstd'."""

    kind: str
    packing: str


def format_of(path: str) -> Format | None:
    """How a file of this name is read; None where it is not."""
    stem, suffix = os.path.splitext(os.path.basename(path).lower())
    if suffix == ".parquet":
        return Format(PARQUET, "plain")
    packing = _PACKINGS.get(suffix)
    kind = _FORMATS.get(os.path.splitext(stem)[1] if packing else suffix)
    return Format(kind, packing or "plain") if kind else None


def refusal(path: str) -> str | None:
    """Why a file of this name is not read and what to do, None where it is read."""
    if format_of(path):
        return None
    name = os.path.basename(path).lower()
    ends = [os.path.splitext(name)[1], os.path.splitext(os.path.splitext(name)[0])[1]]
    for suffix in ends if ends[0] in _PACKINGS else ends[:1]:
        if suffix in _REMEDY:
            return f"a {suffix} file ({_REMEDY[suffix]})"
    return "of another suffix (if it is text, name it .txt)"
