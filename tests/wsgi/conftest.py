"""What the tests of WSGI share."""

from collections.abc import Iterator

import pytest

from tests.wsgi.serving import MODES, Crew


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Crew() as made:
        yield made


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """How the worker runs its app."""
    return str(request.param)
