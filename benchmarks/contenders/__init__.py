"""Everything that is measured side by side: named here, one file each."""

import importlib

from contenders.base import Contender

MODULES = {
    "celery_pool": "ours",
    "celery_pool.Pool": "ours_pool",
    "celery_pool.TaskPoolExecutor": "ours_executor",
    "multiprocessing": "multiprocessing_pool",
    "concurrent.futures": "futures_executor",
    "billiard": "billiard_pool",
    "loky": "loky_executor",
    "pebble": "pebble_pool",
    "mpire": "mpire_pool",
    "joblib": "joblib_parallel",
    "plain_taskpool": "plain_taskpool",
    "raw_pipe": "raw_pipe",
    "raw_shared": "raw_shared",
    "copies": "copies",
    "unpooled": "unpooled",
    "inline": "inline",
}


def load(name: str) -> type[Contender]:
    """The contender of that name; ImportError says what is not installed."""
    contender: type[Contender] = importlib.import_module(f"contenders.{MODULES[name]}").CONTENDER
    assert contender.name == name
    return contender
