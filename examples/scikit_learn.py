"""Serve a scikit-learn model: fit it here, hand it to the replica, ask it by HTTP.

    python examples/scikit_learn.py

Needs scikit-learn: `pip install scikit-learn`.
"""

from typing import Any

import flask
import requests
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

import rayserve as serve

instance = serve.init(http_port=0)

iris = load_iris()
model = LogisticRegression(max_iter=1_000).fit(iris.data, iris.target)


class IrisClassifier:
    def __init__(self, model: Any, names: list[str]) -> None:
        self.model = model
        self.names = names

    def __call__(self, request: flask.Request) -> dict[str, Any]:
        flower = request.get_json()["flower"]  # sepal length and width, petal length and width, in cm
        chances = self.model.predict_proba([flower])[0]
        # NumPy arrays and numbers become JSON as they are.
        return {"name": self.names[chances.argmax()], "chances": chances.round(3)}


# Whatever follows the class goes to its constructor, in every replica.
serve.create_backend("iris:v1", IrisClassifier, model, iris.target_names.tolist())
serve.create_endpoint("iris", "/iris", methods=["POST"], backend="iris:v1")

for row in (0, 75, 149):
    answer = requests.post(f"{instance.url}/iris", json={"flower": iris.data[row].tolist()}, timeout=10).json()
    truth = iris.target_names[iris.target[row]]
    print(f"POST /iris {iris.data[row].tolist()} → {answer['name']} {answer['chances']}, in truth {truth}")
    assert answer["name"] == truth
