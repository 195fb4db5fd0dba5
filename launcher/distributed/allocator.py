"""glibc's allocator, told to keep what it has: on a CPU this is a fifth of the time of a training step.

A step frees and asks again for the same hundreds of megabytes. By default glibc takes each large tensor from
the kernel and gives it back at once, so every step pays for fresh zeroed pages (measured: 180 000 page faults
a step, 600 with these settings). The process then holds the memory of its largest step, which
it would need again anyway. Transparent huge pages help on top, but torch reads THP_MEM_ALLOC_ENABLE when it
first allocates: it is for the environment that launcher/distributed/local_launch.py gives its ranks, not for
this function.
"""

import ctypes

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

ENVIRONMENT = {"THP_MEM_ALLOC_ENABLE": "1"}
"""Variables for a process that trains on the CPU, to be set before it starts."""


def keep_memory() -> bool:
    """Stop giving memory back to the kernel; True where the C library took the settings (glibc)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library: nothing to set, and nothing is lost but speed
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
    return all(mallopt(setting, value) for setting, value in settings)
