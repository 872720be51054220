"""What ranks print, in memory that outlives them: it is shown also of a rank that has died, or hangs."""

import io
import mmap
import os
import tempfile

KEPT = 2**16  # bytes of each rank: of a flood, the last ones
SLOT = KEPT + 8  # after the count of all that were printed


class Prints:
    """The memory in the file `fd`: the kernel reads what each rank writes."""

    def __init__(self, fd, size):
        self.size, self.page = size, mmap.mmap(fd, size * SLOT)

    def clear(self):
        for rank in range(self.size):
            self.count(rank, 0)

    def count(self, rank, new=None):
        """How many bytes a rank has printed."""
        place = slice(rank * SLOT, rank * SLOT + 8)
        if new is not None:
            self.page[place] = new.to_bytes(8, "little")
        return int.from_bytes(self.page[place], "little")

    def write(self, rank, data):
        total, start = self.count(rank) + len(data), rank * SLOT + 8
        data = data[-KEPT:]
        at = (total - len(data)) % KEPT
        first, rest = data[: KEPT - at], data[KEPT - at :]
        self.page[start + at : start + at + len(first)] = first
        self.page[start : start + len(rest)] = rest
        self.count(rank, total)

    def lines(self, rank):
        """What a rank has printed, line by line."""
        count, start = self.count(rank), rank * SLOT + 8
        at = count % KEPT if count > KEPT else 0
        kept = self.page[start + at : start + min(count, KEPT)] + self.page[start : start + at]
        lines = [line.rstrip("\n") for line in io.StringIO(kept.decode(errors="replace"))]
        return [f"… of {count:,} bytes the last {KEPT:,}:", *lines] if count > KEPT else lines


class Printer(io.TextIOBase):
    """What a rank has as sys.stdout while it runs a lesson."""

    def __init__(self, prints, rank):
        self.prints, self.rank = prints, rank

    def write(self, text):
        self.prints.write(self.rank, text.encode(errors="backslashreplace"))
        return len(text)

    def writable(self):
        return True


def shared_file(size):
    """A file in memory, without a name, that can be given to other processes; where there is none, one on disk.

    It is filled, not cut to size: a hole in a file is an error only when someone writes to it, and then a fatal one.
    """
    in_memory = hasattr(os, "memfd_create")
    file = os.fdopen(os.memfd_create("shardlab"), "w+b") if in_memory else tempfile.TemporaryFile()  # noqa: SIM115
    file.write(bytes(size))
    file.flush()
    return file
