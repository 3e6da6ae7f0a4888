"""The stage is started once per run, with the first test that needs it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.docs.staging import Stage, own_world


@pytest.fixture(scope="session")
def shared_stage() -> Iterator[Stage]:
    with own_world() as environment, Stage(environment) as stage:
        yield stage


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """The stage, without endpoints and backends."""
    yield shared_stage
    shared_stage.clear()
