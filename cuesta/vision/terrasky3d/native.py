"""Calls into pycolmap that take long: quiet, with progress, and ended by Ctrl-C.

Progress is read from the database through pycolmap itself: Python has its own copy of SQLite, and two
copies in one process undo each other's locks on a file.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import pycolmap

from cuesta.errors import UserError

SECONDS_BETWEEN_LOOKS = 0.5


def call(
    work: Callable[[pycolmap.CancellationToken], object],
    look: Callable[[], None] = lambda: None,
) -> object:
    """Return `work(token)`, run in a thread, while `look` is called twice a second.

    What pycolmap logs is dropped; an exception of it becomes a `UserError`. Ctrl-C
    cancels the work and waits until it has closed its files.
    """
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    token = pycolmap.CancellationToken()
    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(work, token)
        try:
            while not wait([future], timeout=SECONDS_BETWEEN_LOOKS).done:
                look()
        except BaseException:
            token.cancel()
            raise
    try:
        return future.result()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"pycolmap: {str(error).splitlines()[0]}") from error
