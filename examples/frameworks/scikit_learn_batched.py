"""Serve a random forest of scikit-learn that reads digits, in batches, and measure what they gain.

    python examples/frameworks/scikit_learn_batched.py

Calling `predict` costs much and each row little: a call walks its hundred trees one after the other, in Python.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import flask
import joblib
import numpy as np
from load import Load
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

import rayserve as serve

digits = load_digits()
seen, held_out, seen_digits, held_out_digits = train_test_split(
    digits.data, digits.target, test_size=0.5, random_state=7
)
folder = tempfile.TemporaryDirectory()  # gone when this script ends; replicas on other nodes would need a shared one
path = Path(folder.name, "forest.joblib")
joblib.dump(RandomForestClassifier(random_state=7).fit(seen, seen_digits), path)


class Forest:
    def __init__(self, path: Path) -> None:
        self.model = joblib.load(path)

    @serve.accept_batch
    def __call__(self, batch: list[flask.Request]) -> list[dict[str, Any]]:
        rows = np.array([request.get_json()["pixels"] for request in batch])
        return [{"digit": digit, "batch_size": len(batch)} for digit in self.model.predict(rows)]


instance = serve.init(http_port=0)
serve.create_backend("forest", Forest, path, config={"max_batch_size": 32})
serve.create_endpoint("digits", "/digits", methods=["POST"], backend="forest")

bodies = [json.dumps({"pixels": row.tolist()}).encode() for row in held_out]
load = Load(f"{instance.url}/digits", bodies)
right = load.share_right("digit", held_out_digits.tolist())
print(f"{len(bodies)} held-out images over HTTP: {right:.1%} read right")
load.compare("forest")
