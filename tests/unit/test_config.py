"""What users may set, what it defaults to, and what they read when it cannot be."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.checked import Checked
from rayserve.config import (
    BackendConfig,
    EndpointConfig,
    HTTPOptions,
    merge_backend_config,
    merge_endpoint_config,
    parse_backend_config,
    parse_endpoint_config,
    parse_http_options,
)
from rayserve.errors import InvalidTypeError, InvalidValueError, RayServeException


def test_backend_defaults_are_those_of_the_design() -> None:
    assert parse_backend_config(None).to_plain() == {
        "num_replicas": 1,
        "max_batch_size": None,
        "batch_wait_timeout": 0.0,
        "max_concurrent_batches": 1,
        "max_concurrency": 1,
        "max_concurrent_queries": None,
        "max_queued": 1000,
        "startup_timeout_s": 600.0,
        "drain_timeout_s": 30.0,
        "stream_request": False,
    }
    assert BackendConfig().user_config is None


def test_endpoint_defaults_are_those_of_the_design() -> None:
    assert parse_endpoint_config(None).to_plain() == {
        "timeout_s": 60.0,
        "max_body_bytes": 64 * 2**20,
        "retry": "idempotent",
        "call_methods": None,
        "allow_pin": False,
        "expose_backend": True,
        "debug": False,
    }


def test_http_defaults_are_those_of_the_design() -> None:
    assert parse_http_options(None).to_plain() == {
        "num_ingress": 1,
        "max_connections": 10_000,
        "max_buffered_bytes": 2**30,
        "max_request_line": 8192,
        "max_header_bytes": 65536,
        "max_headers": 100,
        "head_timeout_s": 15.0,
        "min_body_rate": 1024,
        "keep_alive_s": 75.0,
        "admin_port": 0,
        "access_log": False,
        "trusted_proxies": [],
    }


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_replicas": "x"}, "num_replicas must be an int, got 'x' (str)"),
        ({"num_replicas": True}, "num_replicas must be an int, got True (bool)"),
        ({"num_replicas": None}, "num_replicas must be an int, got None (NoneType)"),
        ({"max_batch_size": 1.0}, "max_batch_size must be an int, got 1.0 (float)"),
        ({"max_concurrent_queries": "8"}, "max_concurrent_queries must be an int, got '8' (str)"),
        ({"batch_wait_timeout": "1"}, "batch_wait_timeout must be a number, got '1' (str)"),
        ({"batch_wait_timeout": False}, "batch_wait_timeout must be a number, got False (bool)"),
        ({"drain_timeout_s": None}, "drain_timeout_s must be a number, got None (NoneType)"),
        ({"stream_request": 1}, "stream_request must be True or False, got 1 (int)"),
    ],
)
def test_case_8_a_wrong_type_is_a_type_error(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidTypeError) as direct:
        BackendConfig(**options)
    with pytest.raises(InvalidTypeError) as by_dict:
        parse_backend_config(options)
    assert isinstance(direct.value, TypeError)
    assert str(direct.value) == str(by_dict.value) == text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_replicas": 0}, "num_replicas must be at least 1, got 0"),
        ({"max_batch_size": 0}, "max_batch_size must be at least 1, got 0"),
        ({"max_batch_size": -1}, "max_batch_size must be at least 1, got -1"),
        ({"batch_wait_timeout": -0.1}, "batch_wait_timeout must be at least 0, got -0.1"),
        ({"batch_wait_timeout": math.nan}, "batch_wait_timeout must be finite, got nan"),
        ({"batch_wait_timeout": math.inf}, "batch_wait_timeout must be finite, got inf"),
        ({"startup_timeout_s": 0}, "startup_timeout_s must be above 0, got 0"),
        ({"max_queued": -1}, "max_queued must be at least 0, got -1"),
        ({"num_replicas": 10**40}, "num_replicas must be at most 2,147,483,647, got 1000000"),
        ({"drain_timeout_s": 10**400}, "drain_timeout_s must be a number a float can hold, got 1000"),
    ],
)
def test_case_8_a_wrong_value_is_a_value_error(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        BackendConfig(**options)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("key", "near"), [("num_replica", "num_replicas"), ("Max_Batch_Size", "max_batch_size"), ("queued", "max_queued")]
)
def test_case_8_an_unknown_key_names_the_nearest_known_one(key: str, near: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse_backend_config({key: 1})
    assert str(caught.value) == f'unknown option "{key}" for BackendConfig; did you mean "{near}"?'


def test_case_8_an_unknown_key_like_no_other_lists_them_all() -> None:
    with pytest.raises(InvalidValueError, match=r"known: num_replicas, max_batch_size, .*stream_request"):
        parse_backend_config({"zzz": 1})


@pytest.mark.parametrize("config", [[], "num_replicas", 3, (("num_replicas", 2),), EndpointConfig()])
def test_case_8_a_config_that_is_no_dict_is_a_type_error(config: Any) -> None:
    with pytest.raises(InvalidTypeError, match="config must be a dict or a BackendConfig, got "):
        parse_backend_config(config)


def test_case_8_a_key_that_is_no_str_is_a_type_error() -> None:
    bad: dict[Any, Any] = {1: 2}
    with pytest.raises(InvalidTypeError, match=r"config must name options by str, got 1 \(int\)"):
        parse_backend_config(bad)


def test_case_8_the_callers_dict_is_unchanged() -> None:
    user_config = {"threshold": [1, 2]}
    config = {"num_replicas": 2, "user_config": user_config}
    before = json.dumps(config)
    parsed = merge_backend_config(parse_backend_config(config), config)
    assert json.dumps(config) == before
    assert parsed.user_config is user_config  # any value passes through untouched


def test_case_8_a_limit_below_the_batch_size_is_a_value_error() -> None:
    with pytest.raises(InvalidValueError, match="max_concurrent_queries=4 is below max_batch_size=5"):
        BackendConfig(max_batch_size=5, max_concurrent_queries=4)
    assert BackendConfig(max_batch_size=5, max_concurrent_queries=5).max_concurrent_queries == 5


@pytest.mark.parametrize("wait", [0, 1, 0.5, 1e-3])
def test_case_8_batch_wait_timeout_takes_int_and_float(wait: float) -> None:
    taken = BackendConfig(batch_wait_timeout=wait).batch_wait_timeout
    assert taken == wait and type(taken) is float


def test_case_10_only_named_keys_change() -> None:
    old = BackendConfig(num_replicas=3, max_batch_size=5, user_config="v1")
    new = merge_backend_config(old, {"batch_wait_timeout": 1})
    assert new == BackendConfig(num_replicas=3, max_batch_size=5, user_config="v1", batch_wait_timeout=1.0)
    assert old.batch_wait_timeout == 0.0


def test_case_10_of_a_config_the_options_it_was_made_with_change() -> None:
    old = BackendConfig(num_replicas=3, max_batch_size=5)
    assert merge_backend_config(old, BackendConfig(num_replicas=1)) == BackendConfig(max_batch_size=5)
    # What was stored names every option: "make it like that one".
    stored = BackendConfig.from_plain(BackendConfig(num_replicas=2).to_plain())
    assert merge_backend_config(old, stored) == BackendConfig(num_replicas=2)


def test_case_10_the_whole_is_checked_again() -> None:
    old = BackendConfig(max_concurrent_queries=8)
    with pytest.raises(InvalidValueError, match="below max_batch_size=9"):
        merge_backend_config(old, {"max_batch_size": 9})
    with pytest.raises(InvalidTypeError):
        merge_backend_config(old, {"num_replicas": "x"})
    nothing: Any = None
    with pytest.raises(InvalidTypeError, match="got None"):
        merge_backend_config(old, nothing)


def test_case_10_a_copy_made_behind_our_back_is_checked() -> None:
    sneaky = BackendConfig().model_copy(update={"num_replicas": "x"})
    with pytest.raises(InvalidTypeError, match="num_replicas"):
        parse_backend_config(sneaky)
    with pytest.raises(InvalidTypeError, match="num_replicas"):
        merge_backend_config(BackendConfig(), sneaky)


def test_case_11_a_config_reads_like_a_dict_too() -> None:
    config = BackendConfig(max_batch_size=10)
    assert config["max_batch_size"] == config.max_batch_size == 10
    assert "num_replicas" in config and "zzz" not in config
    assert dict(config)["num_replicas"] == 1
    assert BackendConfig(**config) == config
    with pytest.raises(KeyError):
        config["zzz"]


def test_a_config_is_frozen() -> None:
    config: Any = BackendConfig()
    with pytest.raises(InvalidTypeError, match="cannot set num_replicas: a BackendConfig is frozen"):
        config.num_replicas = 2
    with pytest.raises(InvalidTypeError, match="cannot delete num_replicas"):
        del config.num_replicas
    assert config.num_replicas == 1


def test_a_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(BackendConfig()) == "BackendConfig()"
    assert str(BackendConfig(num_replicas=2, max_queued=0)) == "BackendConfig(num_replicas=2, max_queued=0)"
    assert len(repr(BackendConfig(user_config=list(range(10_000))))) < 100


class _NoBool:
    """Like a NumPy array: comparing it gives something without a truth value."""

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


def test_any_user_config_can_be_shown_and_merged() -> None:
    value = _NoBool()
    config = merge_backend_config(BackendConfig(user_config=value), {"num_replicas": 2})
    assert config.user_config is value
    assert "user_config=" in repr(config)
    assert merge_backend_config(config, {"user_config": None}).user_config is None


@pytest.mark.parametrize("methods", [["predict", "explain"], ("predict", "explain", "predict")])
def test_case_19_call_methods_is_a_list_of_names(methods: Any) -> None:
    assert EndpointConfig(call_methods=methods).call_methods == ("predict", "explain")


@pytest.mark.parametrize("methods", [None, False])
def test_case_19_call_methods_may_allow_all_or_none(methods: Any) -> None:
    assert EndpointConfig(call_methods=methods).call_methods is methods


@pytest.mark.parametrize(
    ("methods", "error", "text"),
    [
        (True, InvalidValueError, "call_methods cannot be True"),
        ("predict", InvalidTypeError, "a list of method names, or False, got 'predict'"),
        ({"predict"}, InvalidTypeError, "a list of method names"),
        ([1], InvalidTypeError, "must hold method names, got 1"),
        (["not a name"], InvalidValueError, "must hold method names, got 'not a name'"),
        (["reconfigure"], InvalidValueError, '"reconfigure", which no request may call'),
        (["_private"], InvalidValueError, '"_private", which no request may call'),
    ],
)
def test_case_19_call_methods_refuses_what_may_never_be_called(
    methods: Any, error: type[RayServeException], text: str
) -> None:
    with pytest.raises(error, match=text):
        EndpointConfig(call_methods=methods)


def test_retry_is_one_of_three_words() -> None:
    with pytest.raises(InvalidValueError, match="retry must be 'idempotent', 'always' or 'never', got 'alway'"):
        parse_endpoint_config({"retry": "alway"})
    with pytest.raises(InvalidTypeError):
        parse_endpoint_config({"retry": 3})
    assert merge_endpoint_config(EndpointConfig(timeout_s=5), {"retry": "never"}) == EndpointConfig(
        timeout_s=5, retry="never"
    )


def test_trusted_proxies_are_addresses_or_networks() -> None:
    assert HTTPOptions(trusted_proxies=["10.0.0.7", "fd00::/8"]).trusted_proxies == ("10.0.0.7", "fd00::/8")
    for bad in ("*", "10.0.0.7/8", "proxy.example"):
        with pytest.raises(InvalidValueError, match="no IP address or network"):
            HTTPOptions(trusted_proxies=[bad])
    for wrong in ("10.0.0.7", [10]):
        with pytest.raises(InvalidTypeError, match="trusted_proxies"):
            parse_http_options({"trusted_proxies": wrong})


def test_http_options_are_called_by_their_own_name() -> None:
    wrong: Any = 8000
    with pytest.raises(InvalidTypeError, match="http_options must be a dict or a HTTPOptions, got 8000"):
        parse_http_options(wrong)
    with pytest.raises(InvalidValueError, match="admin_port must be at most 65,535"):
        parse_http_options({"admin_port": 70_000})


@pytest.mark.parametrize(
    "options",
    [
        BackendConfig(num_replicas=2, max_batch_size=7, batch_wait_timeout=0.25, stream_request=True),
        EndpointConfig(call_methods=["a", "b"], retry="always"),
        EndpointConfig(call_methods=False),
        HTTPOptions(trusted_proxies=["10.0.0.0/8"], access_log=True),
    ],
)
def test_options_survive_every_way_they_travel(options: Checked) -> None:
    plain = options.to_plain()
    assert type(options).from_plain(json.loads(json.dumps(plain))) == options
    assert type(options).from_plain(msgspec.msgpack.decode(msgspec.msgpack.encode(plain))) == options
    assert pickle.loads(pickle.dumps(options)) == options


def test_user_config_travels_apart() -> None:
    config = BackendConfig(user_config=object())
    assert "user_config" not in config.to_plain()
    assert BackendConfig.from_plain(config.to_plain(), config.user_config) == config


_ANY_VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
)


@given(
    options=st.dictionaries(
        st.one_of(
            st.sampled_from([*BackendConfig.model_fields, *EndpointConfig.model_fields, *HTTPOptions.model_fields]),
            st.text(max_size=5),
        ),
        _ANY_VALUE,
        max_size=3,
    ),
    kind=st.sampled_from([BackendConfig, EndpointConfig, HTTPOptions]),
)
def test_whatever_is_given_the_error_is_ours_or_the_result_travels(
    options: dict[str, Any], kind: type[Checked]
) -> None:
    try:
        made = kind(**options)
    except RayServeException as error:
        assert isinstance(error, InvalidTypeError | InvalidValueError)
        return
    plain = made.to_plain()
    assert kind.from_plain(msgspec.msgpack.decode(msgspec.msgpack.encode(plain))).to_plain() == plain
