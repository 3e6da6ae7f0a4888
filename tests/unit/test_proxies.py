import pytest

from rayserve.ingress.proxies import Proxies

PEER = "10.0.0.1:5000"


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("10.0.0.1", True), ("10.255.0.1", True), ("11.0.0.1", False), ("192.0.2.7", True), ("192.0.2.8", False),
        ("2001:db8::1", True), ("2001:db9::1", False), ("::ffff:10.0.0.1", True), ("::1", False), ("", False),
    ],
)  # fmt: skip
def test_addresses_and_networks_are_trusted(host: str, trusted: bool) -> None:
    assert Proxies(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]).trust(host) is trusted


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], PEER),
        (["198.51.100.9"], "198.51.100.9:0"),
        (["198.51.100.9:4711"], "198.51.100.9:4711"),
        (["2001:db8::9"], "[2001:db8::9]:0"),
        (["[2001:db8::9]:4711"], "[2001:db8::9]:4711"),
        (["[2001:db8::9]"], "[2001:db8::9]:0"),
        (["198.51.100.9, 10.0.0.7"], "198.51.100.9:0"),  # a chain of two proxies of ours
        (["198.51.100.9", "10.0.0.7"], "198.51.100.9:0"),  # in two fields
        (["1.2.3.4, 198.51.100.9"], "198.51.100.9:0"),  # what the client itself wrote is not believed
        (["1.2.3.4, 198.51.100.9, 10.0.0.7"], "198.51.100.9:0"),
        (["10.0.0.9, 10.0.0.7"], "10.0.0.9:0"),  # a client inside our network
        (["unknown"], PEER),
        (["1.2.3.4, unknown"], PEER),
        (["1.2.3.4, _hidden, 10.0.0.7"], "10.0.0.7:0"),
        (["1.2.3.4, 300.1.1.1"], PEER),
        (["198.51.100.9:99999"], PEER),
        (["0" * 60 + "198.51.100.9"], PEER),
        (["", " , "], PEER),
        (["198.51.100.9, "], "198.51.100.9:0"),
        (["::ffff:198.51.100.9"], "198.51.100.9:0"),
    ],
)
def test_the_client_is_the_last_hop_that_is_not_trusted(forwarded: list[str], client: str) -> None:
    headers = [("x-forwarded-for", value) for value in forwarded]

    assert Proxies(["10.0.0.0/8"]).origin(headers, PEER) == (client, "http")


@pytest.mark.parametrize(
    ("hops", "proto", "scheme"),
    [
        ("198.51.100.9", "https", "https"),
        ("198.51.100.9", "HTTPS", "https"),
        ("198.51.100.9", "gopher", "http"),
        ("198.51.100.9, 10.0.0.7", "https", "https"),  # written once, by the outermost proxy
        ("198.51.100.9, 10.0.0.7", "https, http", "https"),  # written by each
        ("198.51.100.9", "https, http", "http"),  # the first one was the client's own
        ("", "https", "https"),
        ("198.51.100.9", "", "http"),
    ],
)
def test_the_scheme_is_the_one_that_client_spoke(hops: str, proto: str, scheme: str) -> None:
    headers = [("x-forwarded-for", hops), ("x-forwarded-proto", proto), ("host", "test")]

    assert Proxies(["10.0.0.0/8"]).origin(headers, PEER)[1] == scheme
