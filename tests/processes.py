"""How a process of a test with several processes ends."""

import os
import sys


def leave() -> None:
    """Ends this process at once, after its last collective and with its results written.

    An orderly end can hang: where a DistributedDataParallel model is the last owner of its gloo group, the group's
    destructor runs with the interpreter's lock held and waits for the group's thread, which may be waiting for the
    lock to let go of the last all-reduce.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
