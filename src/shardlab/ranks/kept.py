"""`Kept`: pools of real ranks that stay for the next call, since a slider does not wait for processes to start.

A pool that nobody has used for a minute is closed, and all of them at the end of the program.
"""

import atexit
import threading
import time
from contextlib import contextmanager

from shardlab.ranks import ranks

__all__ = ["Kept"]


class Kept:
    """A pool of each size, made when it is first asked for.

    >>> pools = Kept()
    >>> with pools.of(2) as pool:
    ...     pool.run(lambda mesh: mesh.size)
    [2, 2]
    >>> with pools.of(2) as again:
    ...     again is pool
    True
    >>> pools.close()
    """

    def __init__(self, idle=60.0):
        self.idle = idle  # seconds
        self.pools, self.used, self.lock, self.timer = {}, {}, threading.RLock(), None
        atexit.register(self.close)

    @contextmanager
    def of(self, size):
        """The pool of this size, for this thread alone; only the first time it has to start."""
        with self.lock:
            if size not in self.pools:
                self.pools[size] = ranks(size)
            try:
                yield self.pools[size]
            finally:
                self.used[size] = time.monotonic()
                self.look_again()

    def close(self):
        """End all ranks; the next call starts new ones."""
        with self.lock:
            if self.timer:
                self.timer.cancel()
            for pool in self.pools.values():
                pool.close()
            self.pools, self.used, self.timer = {}, {}, None

    def look_again(self):
        """Have the pools that nobody uses closed in time."""
        if self.timer is None and self.used:
            left = min(self.used.values()) + self.idle - time.monotonic()
            self.timer = threading.Timer(max(left, 0.0) + 0.01, self.close_idle)
            self.timer.daemon = True  # it does not hold up the end of the program
            self.timer.start()

    def close_idle(self):
        with self.lock:
            if self.timer is not threading.current_thread():  # closed, and perhaps used again, in the meantime
                return
            now, self.timer = time.monotonic(), None
            for size in [size for size, used in self.used.items() if now - used >= self.idle]:
                del self.used[size]
                self.pools.pop(size).close()
            self.look_again()
