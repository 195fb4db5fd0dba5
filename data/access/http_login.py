"""Who may read from an http server: the login for a host, from where a user keeps it out of configs.

    the URL itself              user:password@, on a command line; a config refuses it
    HEADRACE_AUTHORIZATION      lines "HOST VALUE": VALUE is the Authorization header for that host alone
    .netrc                      in the home folder, or the file that NETRC names

https and http alike, each for the host that it names and for no other: a redirect elsewhere takes nothing
along. Nothing of it stands in a message, nor in what an exception says.
"""

import netrc
import os
from collections.abc import Mapping
from urllib.parse import unquote

import urllib3

VARIABLE = "HEADRACE_AUTHORIZATION"


class Login:
    """The logins of an environment. A .netrc that changes is read again, as a password may in a long run."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment
        self._stamp: tuple[str, int, int] | None = None
        self._netrc: netrc.netrc | None = None
        self.obstacle = ""
        """Why the .netrc that is there could not be read; empty where nothing is wrong with it."""

    def of(self, url: str, *, redirected: bool = False) -> tuple[str, str | None]:
        """A URL without user and password, and the Authorization header to send to it, None for none.
        redirected: a server named it, and not the user, so only what names its host is sent."""
        parts = urllib3.util.parse_url(url)
        bare = parts._replace(auth=None).url if parts.auth is not None else url
        host = (parts.host or "").strip("[]").lower()
        if parts.auth is not None and not redirected:
            user, _, password = parts.auth.partition(":")
            return bare, _basic(unquote(user), unquote(password))
        named = {host, f"{host}:{parts.port or {'https': 443, 'http': 80}.get(parts.scheme or '')}"}
        for line in self._environment.get(VARIABLE, "").splitlines():
            name, _, value = line.strip().partition(" ")
            if name.lower() in named and value.strip():
                return bare, value.strip()
        return bare, self._of_netrc(host, redirected)

    def _of_netrc(self, host: str, redirected: bool) -> str | None:
        known = self._read()
        hosts = known.hosts if known else {}
        found = hosts.get(host) or (None if redirected else hosts.get("default"))
        return _basic(found[0] or found[1] or "", found[2] or "") if found else None

    def _read(self) -> netrc.netrc | None:
        path = self._environment.get("NETRC") or os.path.expanduser("~/.netrc")
        try:
            status = os.stat(path)
            stamp = path, status.st_mtime_ns, status.st_size
            if stamp != self._stamp:  # the stamp last: threads that see it take what was read
                self._netrc, self.obstacle = netrc.netrc(path), ""
                self._stamp = stamp
        except netrc.NetrcParseError as error:  # its text may hold a part of a password
            self._netrc, self._stamp = None, None
            self.obstacle = f"{path}, line {error.lineno}, is no .netrc"
        except UnicodeDecodeError:
            self._netrc, self._stamp = None, None
            self.obstacle = f"{path} is no text"
        except FileNotFoundError:
            named = "NETRC" in self._environment
            self._netrc, self._stamp = None, None
            self.obstacle = f"{path}, which NETRC names, is not there" if named else ""
        except OSError as error:
            self._netrc, self._stamp = None, None
            self.obstacle = f"{path} cannot be read: {error.strerror}"
        return self._netrc


def _basic(user: str, password: str) -> str:
    header: str = urllib3.make_headers(basic_auth=f"{user}:{password}")["authorization"]
    return header
