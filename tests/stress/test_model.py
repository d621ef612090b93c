"""The protocol, explored exhaustively on the real C headers: tests/stress/model/protocol.c."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from compiling import PROJECT, compile_c, finished

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs makecontext"
    ),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = PROJECT / "tests" / "stress" / "model" / "protocol.c"
    return compile_c(source, tmp_path_factory.mktemp("model") / "protocol", "-O2")


def test_the_protocol_holds_in_every_state(model: Path) -> None:
    output = finished(model, "--trace", "--scenarios")
    print(output)
    assert output.count("  ok\n") >= 15


def test_every_way_to_get_it_wrong_is_found(model: Path) -> None:
    output = finished(model, "--mutations")
    print(output)
    assert output.count("  ok: ") >= 20
