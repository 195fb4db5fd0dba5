"""What gives access must not stand in a config: it is copied into the folder of every run.

Secrets cannot be recognised for certain. These are the ways in which they are commonly written: a parameter
of a URL, its user and password, and in a `pipe:` command a header, a variable, an option or curl's -u. What
begins with $ is a variable, for the shell to expand.
"""

import re
from urllib.parse import urlsplit

from data.access.http_login import VARIABLE

_PARAMETER = re.compile(r"(?i)(^|&)[^=&]*(signature|credential|token|secret|password|sig|key)[^=&]*=")
"""Of a URL: presigned S3 and GCS URLs, Azure's SAS, tokens of hubs."""

_NAME = (
    r"(?:authorization|cookie|token|secret|passw(?:or)?d|passphrase|signature|credential|\bsig"
    r"|(?:api|access|secret|account|private)[_-]?key)"
)
_LITERAL = r"""["']?[^\s"'$`]"""
_IN_COMMAND = re.compile(
    rf"""(?ix)
      {_NAME} (?:["']?:|=) \s* (?:(?:bearer|basic|token)\s+)?+ {_LITERAL}  # TOKEN=…  Authorization: Bearer …
    | \s--?[\w-]*{_NAME} \s+ (?!-) {_LITERAL}                               # --password …
    | \bcurl\b .* \s(?:-\w*u|--user|--proxy-user) [\s=]* ["']? [^\s:"'$]+ : {_LITERAL}
    | ://[^\s/@:]* : [^\s/@$]+ @                                            # https://user:password@host
    """
)


def refuse_secret(shard: str) -> None:
    """ValueError, without the secret, where a path, URL or pipe: command seems to contain one."""
    if shard.startswith("pipe:"):
        if _IN_COMMAND.search(shard):
            raise ValueError(
                "a pipe: command with a secret written out in it would be copied into runs; put the secret "
                "into an environment variable and write $NAME here, which the shell expands"
            )
        return
    if "://" not in shard:
        return
    parts = urlsplit(shard)
    web = parts.scheme in ("http", "https")
    if parts.password or (web and parts.username):
        elsewhere = f"put it into .netrc, or into {VARIABLE} in the environment"
        raise ValueError(
            "a URL with a password in it would be copied into runs; "
            + (elsewhere if web else "put it into the environment, where its library looks for it")
        )
    if _PARAMETER.search(parts.query):
        raise ValueError(
            "a URL with a signature or a key in it would be copied into runs; name the shards without it, "
            "or through a pipe: that reads it from the environment"
        )
