"""Keep what a step frees for the next step, instead of asking the kernel for fresh pages each time."""

import ctypes
import sys

# mallopt's names in glibc's malloc.h, and the largest value that it takes for each.
TRIM_THRESHOLD, LARGEST_INT = -1, 2**31 - 1
MMAP_THRESHOLD, LARGEST_HEAP_PIECE = -3, 2**25


def keep_freed_memory() -> None:
    """Let glibc's allocator keep freed memory of up to 32 MiB a piece; other allocators are left as they are.

    As it comes, it hands a temporary of a few MB back to the kernel, which zeroes the pages of the next one: that costs
    as much as computing with them. The peak of memory stays; the process does not shrink between its peaks.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(TRIM_THRESHOLD, LARGEST_INT)
        libc.mallopt(MMAP_THRESHOLD, LARGEST_HEAP_PIECE)
