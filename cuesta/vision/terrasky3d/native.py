"""Calls into pycolmap that take long: quiet, with progress read from the database, and ended by
Ctrl-C.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pycolmap

from cuesta.errors import UserError

SECONDS_BETWEEN_LOOKS = 0.5


def call(
    work: Callable[[pycolmap.CancellationToken], object],
    look: Callable[[], None] = lambda: None,
) -> object:
    """Return `work(token)`, run in a thread, while `look` is called twice a second.

    What pycolmap logs is dropped but for warnings; an exception of it becomes a `UserError`. Ctrl-C
    cancels the work and waits until it has closed its files.
    """
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
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


def num_rows(database: Path, table: str) -> int:
    """Return how many rows a table of a COLMAP database has; 0 while there is none."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(
        sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    ) as connection:
        return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
    return 0
