"""Serve a small convolutional network of Keras on TensorFlow that reads digits, in batches; measure what they gain.

    python examples/frameworks/tensorflow_keras.py

Not named tensorflow.py: `import tensorflow` would find this file. The call is compiled once for batches of any size;
without `None` in its signature TensorFlow would compile it anew for every size it meets.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import flask
import keras
import numpy as np
import tensorflow as tf
from load import Load
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import rayserve as serve


def as_images(rows: Any) -> Any:
    """64 grey values from 0 to 16 per row → images of 8 × 8 from 0 to 1."""
    return np.asarray(rows, np.float32).reshape(-1, 8, 8, 1) / 16


digits = load_digits()
seen, held_out, seen_digits, held_out_digits = train_test_split(
    digits.data, digits.target, test_size=0.5, random_state=7
)

keras.utils.set_random_seed(7)
layers = keras.layers
network = keras.Sequential(
    [
        layers.Input((8, 8, 1)),
        layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(10),
    ]
)
network.compile(keras.optimizers.Adam(0.003), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
network.fit(as_images(seen), seen_digits, batch_size=64, epochs=20, verbose=0)
folder = tempfile.TemporaryDirectory()  # gone when this script ends; replicas on other nodes would need a shared one
path = Path(folder.name, "network.keras")
network.save(path)


class Network:
    def __init__(self, path: Path) -> None:
        # One core; the other is for who sends and carries the requests.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        model = keras.models.load_model(path)

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1])])
        def read(images: Any) -> Any:
            return tf.argmax(model(images), axis=1)

        self.read = read
        self.read(np.zeros((1, 8, 8, 1), np.float32))  # compiles it, so that no request waits for that

    @serve.accept_batch
    def __call__(self, batch: list[flask.Request]) -> list[dict[str, Any]]:
        images = as_images([request.get_json()["pixels"] for request in batch])
        return [{"digit": digit, "batch_size": len(batch)} for digit in self.read(images).numpy()]


instance = serve.init(http_port=0)
serve.create_backend("network", Network, path, config={"max_batch_size": 32})
serve.create_endpoint("digits", "/digits", methods=["POST"], backend="network")

bodies = [json.dumps({"pixels": row.tolist()}).encode() for row in held_out]
load = Load(f"{instance.url}/digits", bodies)
right = load.share_right("digit", held_out_digits.tolist())
print(f"{len(bodies)} held-out images over HTTP: {right:.1%} read right")
load.compare("network")
