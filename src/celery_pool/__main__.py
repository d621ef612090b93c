"""`python -m celery_pool`: the command line."""

import sys

from celery_pool.cli import main

if __name__ == "__main__":  # spawned workers import this module, too
    sys.exit(main())
