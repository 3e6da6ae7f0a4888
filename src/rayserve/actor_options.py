"""What of Ray's actor options a user may set for replicas.

    ray_actor_options ──► check_actor_options ──► a copy that Ray takes as it is

Resources and the environment are the user's; identity, lifetime, restarts and placement are RayServe's. Ray is not
asked (nor imported): it would complain late, in the controller, once per replica.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from rayserve.errors import InvalidTypeError, InvalidValueError
from rayserve.names import did_you_mean

__all__ = ["check_actor_options"]

_NAMED = "rayserve names its replicas itself"
_LIVES = "rayserve decides how long a replica lives"
_REPLACED = "rayserve replaces a dead replica by a new one"
_PLACED = "rayserve chooses each replica's node; steer it by resources or label_selector"
_INNER = "rayserve needs its own setting"
_OWNED = {
    "name": _NAMED,
    "namespace": _NAMED,
    "get_if_exists": _NAMED,
    "lifetime": _LIVES,
    "detached": _LIVES,
    "max_restarts": _REPLACED,
    "max_reconstructions": _REPLACED,
    "max_task_retries": "what is retried is the endpoint's `retry` option",
    "max_concurrency": 'set it in the backend\'s config: config={"max_concurrency": …}',
    "max_pending_calls": 'the line is bounded in the backend\'s config: config={"max_queued": …}',
    "scheduling_strategy": _PLACED,
    "fallback_strategy": _PLACED,
    "placement_group": _PLACED,
    "placement_group_bundle_index": _PLACED,
    "placement_group_capture_child_tasks": _PLACED,
    "concurrency_groups": _INNER,
    "allow_out_of_order_execution": _INNER,
    "enable_task_events": _INNER,
    "enable_tensor_transport": _INNER,
}
_PASSED = (
    "num_cpus",
    "num_gpus",
    "memory",
    "object_store_memory",
    "resources",
    "accelerator_type",
    "runtime_env",
    "label_selector",
)
_SMALLEST = 0.0001  # Ray counts resources in steps of this size


def check_actor_options(options: object) -> dict[str, Any]:
    """Return a copy of `ray_actor_options`, fit for Ray; {} for None. An option set to None is left out.

    Raises:
        InvalidTypeError: not a dict, or an option of the wrong type.
        InvalidValueError: an option that RayServe owns (the message says why), an unknown one (with the nearest
            known), a negative or infinite amount.
    """
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise InvalidTypeError(f"ray_actor_options must be a dict, got {options!r} ({type(options).__name__})")
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if not isinstance(name, str):
            raise InvalidTypeError(f"ray_actor_options are named by str, got {name!r} ({type(name).__name__})")
        if name in _OWNED:
            raise InvalidValueError(f'ray_actor_options cannot set "{name}": {_OWNED[name]}')
        if name not in _PASSED:
            raise InvalidValueError(f'unknown option "{name}" in ray_actor_options; {did_you_mean(name, _PASSED)}')
        if value is not None:
            _check(name, value)
            checked[name] = copy.deepcopy(value) if isinstance(value, dict) else value
    return checked


def _check(name: str, value: object) -> None:
    match name:
        case "accelerator_type":
            _check_type(name, value, str, "a str")
        case "runtime_env":
            _check_type(name, value, dict, "a dict")
        case "label_selector":
            _check_type(name, value, dict, "a dict")
            for label, wanted in _items(value):
                _check_type("a label_selector key", label, str, "a str")
                _check_type(f'label_selector["{label}"]', wanted, str, "a str")
        case "resources":
            _check_type(name, value, dict, "a dict")
            for resource, amount in _items(value):
                _check_type("a resources key", resource, str, "a str")
                if resource in ("CPU", "GPU"):
                    raise InvalidValueError(f'resources cannot hold "{resource}"; set num_{resource.lower()}s instead')
                _check_amount(f'resources["{resource}"]', amount)
        case "object_store_memory":
            _check_amount(name, value)
            if isinstance(value, float):
                raise InvalidTypeError(f"object_store_memory must be a whole number of bytes, got {value!r} (float)")
        case _:
            amount = _check_amount(name, value)
            if name == "num_gpus" and amount > 1 and not amount.is_integer():
                raise InvalidValueError(f"num_gpus must be a fraction of one, or a whole number, got {value!r}")


def _check_type(name: str, value: object, wanted: type, said: str) -> None:
    if not isinstance(value, wanted):
        raise InvalidTypeError(f"{name} must be {said}, got {value!r} ({type(value).__name__})")


def _items(value: object) -> list[tuple[object, object]]:
    return list(value.items()) if isinstance(value, dict) else []


def _check_amount(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    if not 0 <= value <= 2**62 or not math.isfinite(value):
        raise InvalidValueError(f"{name} must be a finite number, at least 0, got {value!r}")
    if 0 < value < _SMALLEST:
        raise InvalidValueError(f"{name} must be 0 or at least {_SMALLEST}, the least Ray can count, got {value!r}")
    return float(value)
