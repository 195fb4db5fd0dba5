"""The documents in a user's files: text, Markdown, Python, JSON, Parquet, as they are or packed.

Doors: `documents`, `read_files.FileReader`, `batch`, `pieces`, `long_text.LongText`, `parquet.row_groups`,
`builtin`.
"""
