"""On the path of joblib's own tests, and of the programs that they start: puts our backend in
the place of loky's, under its name."""

from joblib import _parallel_backends, parallel

from celery_pool.ext.joblib import CeleryPoolBackend


class LokyBackend(CeleryPoolBackend):
    pass


_parallel_backends.LokyBackend = LokyBackend  # whose instances the tests look for
parallel.BACKENDS["loky"] = LokyBackend
