"""A Redis and a directory for each test, and workers that end with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import brokers

try:
    import celery.app  # noqa: F401
except ImportError:
    WITH_CELERY = False
else:
    from celery_worker import Client, Site, Worker

    WITH_CELERY = True


@pytest.fixture(scope="session", autouse=True)
def redis() -> Iterator[brokers.Server | brokers.Missing]:
    """One that outlives the tests, if it can be had; so it is started before the first."""
    if not WITH_CELERY:
        pytest.skip("Celery is not installed")
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(brokers.redis_server())
        except brokers.Missing as why:
            yield why


@pytest.fixture
def redis_site(redis: brokers.Server | brokers.Missing, tmp_path: Path) -> Site:
    """With an empty database."""
    if isinstance(redis, brokers.Missing):
        pytest.skip(str(redis))
    from redis import Redis

    with Redis("127.0.0.1", redis.port) as connection:
        connection.flushall()
    return Site.redis(tmp_path, redis.port)


@pytest.fixture
def files_site(tmp_path: Path) -> Site:
    return Site.files(tmp_path)


@pytest.fixture(params=["redis", "filesystem"])
def site(request: pytest.FixtureRequest) -> Site:
    """With an event loop, and without one."""
    kind = "redis_site" if request.param == "redis" else "files_site"
    found: Site = request.getfixturevalue(kind)
    return found


@pytest.fixture
def worker(request: pytest.FixtureRequest) -> Iterator[Callable[..., Worker]]:
    """Starts one at the test's site: of `redis_site` if it has asked for that, else of `site`."""
    name = next(n for n in ("redis_site", "files_site", "site") if n in request.fixturenames)
    site = request.getfixturevalue(name)
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(Worker(site, *args, **kwargs))


@pytest.fixture
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    from kombu.transport.redis import MultiChannelPoller

    pollers = []
    make = MultiChannelPoller.__init__

    def make_and_tell(self: MultiChannelPoller) -> None:
        make(self)
        pollers.append(self.poller)

    monkeypatch.setattr(MultiChannelPoller, "__init__", make_and_tell)
    name = next(n for n in ("redis_site", "files_site", "site") if n in request.fixturenames)
    client = Client(request.getfixturevalue(name), pollers)
    yield client
    client.close()
