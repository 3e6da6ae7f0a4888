"""Compare two versions: split the traffic 70/30, keep each user on one side, then move everybody over.

    python examples/ab_split.py

The answer's header X-Serve-Backend says which backend gave it.
"""

from collections import Counter

import requests

import rayserve as serve

instance = serve.init(http_port=0)


def old_model() -> str:
    return "the old model's answer"


def new_model() -> str:
    return "the new model's answer"


serve.create_backend("recommend:v1", old_model)
serve.create_backend("recommend:v2", new_model)
serve.create_endpoint("recommend", "/recommend")
serve.set_traffic("recommend", {"recommend:v1": 0.7, "recommend:v2": 0.3})

client = requests.Session()


def ask(count: int, **headers: str) -> Counter[str]:
    answers = (client.get(f"{instance.url}/recommend", headers=headers, timeout=10) for _ in range(count))
    return Counter(answer.headers["X-Serve-Backend"] for answer in answers)


shares = ask(500)
print("70/30:", ", ".join(f"{tag} answered {share} of 500" for tag, share in sorted(shares.items())))

# Requests with the same shard key stay with one backend while the split stays.
for user in ("ada", "grace", "linus"):
    sides = ask(20, **{"X-SERVE-SHARD-KEY": user})
    print(f"{user} is always answered by", *sides)
    assert len(sides) == 1

# set_traffic returns when the new split is in force: no later request goes by the old one, and none is lost.
serve.set_traffic("recommend", {"recommend:v2": 1.0})
shares = ask(100)
print("after the switch:", dict(shares))
assert shares == {"recommend:v2": 100}
