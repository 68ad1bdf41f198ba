"""Memory that a training step frees and asks for again a moment later."""

import ctypes
import gc
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
USUAL = 2**25  # bytes: where glibc's threshold ends up once large blocks have been freed


def give_back_freed_memory() -> None:
    """Have the C library (glibc alone) give the pages of freed blocks back to the system, so that
    resident memory is memory in use."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory(keep: bool = True) -> bool:
    """Have the C library keep freed blocks, or without `keep` do as it usually does: give their
    pages back to the system, which has to zero them when the next training step asks for them.
    Changes no result. Returns whether it worked: glibc alone."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, 2**30 if keep else USUAL)
                and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if keep else 2 * USUAL))
