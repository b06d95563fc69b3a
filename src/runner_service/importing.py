"""Imports of large libraries, at the start and beside the event loop."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH_INTERVAL_SECONDS = 0.0005
_GC_THRESHOLDS = (10_000, 250, 100)
"""The youngest objects are looked through within milliseconds; those that last, as rarely as can be."""


@contextmanager
def large_import() -> Iterator[None]:
    """Imports without holding up other threads: their turns come often, and no garbage is collected.

    What exists at the end is exempt from later collections, garbage included: use it once for a library.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # before enabling, or the first collection traverses all of it
        gc.set_threshold(*_GC_THRESHOLDS)
        gc.enable()
        sys.setswitchinterval(interval)
