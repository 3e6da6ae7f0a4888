"""Which of Ray's actor options pass, and why the others do not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rayserve.config import check_actor_options
from rayserve.errors import InvalidTypeError, InvalidValueError


def test_case_9_resources_and_environment_pass_through() -> None:
    options = {
        "num_cpus": 0.5,
        "num_gpus": 0.25,
        "memory": 2**30,
        "object_store_memory": 2**20,
        "resources": {"tpu": 1, "disk": 0.1},
        "accelerator_type": "A100",
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "2"}},
        "label_selector": {"zone": "!in(a)"},
    }
    assert check_actor_options(options) == options


def test_case_9_what_comes_back_is_a_copy() -> None:
    options: dict[str, Any] = {"runtime_env": {"env_vars": {}}, "resources": {"x": 1}}
    checked = check_actor_options(options)
    checked["runtime_env"]["env_vars"]["A"] = "1"
    checked["resources"]["y"] = 1
    assert options == {"runtime_env": {"env_vars": {}}, "resources": {"x": 1}}


def test_case_9_nothing_and_unset_options_are_fine() -> None:
    assert check_actor_options(None) == {}
    assert check_actor_options({"num_cpus": None, "memory": 0}) == {"memory": 0}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("name", "rayserve names its replicas itself"),
        ("namespace", "rayserve names its replicas itself"),
        ("lifetime", "rayserve decides how long a replica lives"),
        ("max_restarts", "rayserve replaces a dead replica by a new one"),
        ("max_concurrency", 'config={"max_concurrency": …}'),
        ("max_task_retries", "`retry`"),
        ("scheduling_strategy", "rayserve chooses each replica's node"),
    ],
)
def test_case_9_options_of_ours_are_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        check_actor_options({name: None})
    assert str(caught.value).startswith(f'ray_actor_options cannot set "{name}": ')
    assert why in str(caught.value)


def test_case_9_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(InvalidValueError, match=r'unknown option "num_gpu" .*; did you mean "num_gpus"\?'):
        check_actor_options({"num_gpu": 1})


@pytest.mark.parametrize(
    "options",
    [
        [],
        "num_cpus",
        {1: 2},
        {"num_cpus": "1"},
        {"num_cpus": True},
        {"num_gpus": [1]},
        {"memory": "1GB"},
        {"object_store_memory": 1.5},
        {"resources": [("x", 1)]},
        {"resources": {1: 1}},
        {"resources": {"x": "1"}},
        {"accelerator_type": 100},
        {"runtime_env": "env"},
        {"label_selector": {"zone": 1}},
    ],
)
def test_case_9_a_bad_type_is_a_type_error(options: Any) -> None:
    with pytest.raises(InvalidTypeError):
        check_actor_options(options)


@pytest.mark.parametrize(
    "options",
    [
        {"num_cpus": -1},
        {"num_gpus": -0.5},
        {"num_gpus": 1.5},
        {"memory": -1},
        {"object_store_memory": -1},
        {"resources": {"x": -1}},
        {"resources": {"GPU": 1}},
        {"num_cpus": math.nan},
        {"num_cpus": math.inf},
        {"num_cpus": 0.00001},
        {"memory": 10**400},
    ],
)
def test_case_9_a_negative_or_impossible_amount_is_a_value_error(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        check_actor_options(options)
