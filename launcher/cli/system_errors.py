"""What the system refuses where nobody has made a line of it: a right, room, a folder that is gone.

Each part says best itself what it could not read or write. But files are touched in a hundred places, and an
error that stands in this list is never a bug: it gets its line here, at the edge. FileNotFoundError is not in
it, for that may well be one; unless the working folder is gone, which every relative path stands on.
"""

import errno
import os
import sys

from data.errors import BadInput

GONE = "the working folder is gone; cd to one that exists"
REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO),
    *(errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}


def line_of(error: OSError | UnicodeEncodeError) -> str | None:
    """One line for the user; None where the error is to be seen as it is."""
    if isinstance(error, UnicodeEncodeError):
        if error.encoding != sys.getfilesystemencoding() or error.encoding == "utf-8":
            return None
        return (
            f"{error.object!r}: cannot be the name of a file where names are {error.encoding}, as the locale "
            "says; set PYTHONUTF8=1 or LC_ALL=C.UTF-8"
        )
    if isinstance(error, FileNotFoundError) and _working_folder_gone():
        return GONE
    if error.errno not in REFUSED:
        return None
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{place}{error.strerror}"


def require_working_folder() -> None:
    """BadInput where it is gone, before torch is imported: MKL would end the process."""
    if _working_folder_gone():
        raise BadInput(GONE)


def _working_folder_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
