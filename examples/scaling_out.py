"""Scale out: run a backend in more processes, and in fewer again, while clients go on asking.

python examples/scaling_out.py
"""

import os

import requests

import rayserve as serve

instance = serve.init(http_port=0)


def where() -> dict[str, int]:
    return {"pid": os.getpid()}


client = requests.Session()


def processes() -> int:
    """Return how many processes answer."""
    return len({client.get(f"{instance.url}/where", timeout=10).json()["pid"] for _ in range(100)})


serve.create_backend("where", where, config={"num_replicas": 2})
serve.create_endpoint("where", "/where", backend="where")
print("num_replicas=2:", processes(), "processes answer")

# Returns when the third replica is ready and every ingress knows it.
serve.update_backend_config("where", {"num_replicas": 3})
print("num_replicas=3:", processes(), "processes answer")

# The two that leave finish what they accepted; new requests go to the one that stays.
serve.update_backend_config("where", {"num_replicas": 1})
print("num_replicas=1:", processes(), "process answers")
