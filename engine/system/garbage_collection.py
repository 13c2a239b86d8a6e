"""Garbage collection of a command: rarely while it imports, and not at its end.

torch and transformers make a million objects that stay. At the usual thresholds, visiting them over and over is a sixth
of the imports' time, and visiting them at the end takes 1.5 s more.
"""

import gc

THRESHOLDS = gc.get_threshold()
IMPORT_THRESHOLDS = 50_000, 20, 20


def defer() -> None:
    """Collect rarely from now on."""
    gc.set_threshold(*IMPORT_THRESHOLDS)


def resume() -> None:
    """Collect as usual again, without visiting what exists by now; no effect unless collection was deferred."""
    if gc.get_threshold() == IMPORT_THRESHOLDS:
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)


def skip_at_exit() -> None:
    """Leave all objects to the end of the process. Functions registered with `atexit` still run."""
    gc.freeze()
