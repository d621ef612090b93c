from __future__ import annotations

import os
from pathlib import Path

from celery import shared_task, signals
from django.conf import settings
from django.db import connection, transaction

from .models import Order


def opened() -> int:
    """How often this process has the database open."""
    path = str(settings.DATABASES["default"]["NAME"])
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += os.readlink(entry) == path
        except OSError:  # that of this listing
            continue
    return found


@shared_task
def place(number: int) -> dict[str, int]:
    """An order, and how often this process has the database open before it and after."""
    before = opened()
    Order.objects.create(number=number, pid=os.getpid())
    return {"pid": os.getpid(), "before": before, "after": opened()}


@shared_task
def place_in_vain(number: int) -> None:
    """Fails within a transaction."""
    with transaction.atomic():
        Order.objects.create(number=number, pid=os.getpid())
        raise ValueError(number)


@shared_task
def spoil() -> int:
    """Leaves a transaction open, and the connection unusable."""
    transaction.set_autocommit(False)
    Order.objects.create(number=-1, pid=os.getpid())
    connection.connection.close()
    return os.getpid()


@shared_task
def place_both(number: int) -> None:
    """An order, and by a task of its own, once this is in the database, a second one."""
    with transaction.atomic():
        Order.objects.create(number=number, pid=os.getpid())
        place.delay_on_commit(number + 1)


if os.environ.get("SHOP_OPENS_EARLY"):
    Order.objects.count()


@signals.celeryd_after_setup.connect
def look_at_the_database(**_: object) -> None:
    """In the main process, which keeps the connection while it starts its children."""
    Order.objects.count()
    print(f"the main process has the database open: {opened()}", flush=True)
