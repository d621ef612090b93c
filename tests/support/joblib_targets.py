"""What tests of the joblib backend run in workers that load functions by name."""

from joblib import Parallel, delayed

from celery_pool.ext.joblib import register


def nested_loop(backend):
    register()
    return Parallel(n_jobs=2, backend=backend)(delayed(pow)(i, 2) for i in range(2))
