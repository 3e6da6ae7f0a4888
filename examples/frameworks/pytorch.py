"""Serve a small convolutional network of PyTorch that reads digits, in batches, and measure what they gain.

    python examples/frameworks/pytorch.py

The weights travel as a file, the network's code with the class: both are put together in each replica.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import flask
import numpy as np
import torch
from load import Load
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import rayserve as serve


def new_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def as_images(rows: Any) -> torch.Tensor:
    """64 grey values from 0 to 16 per row → images of 8 × 8 from 0 to 1."""
    return torch.from_numpy(np.asarray(rows, np.float32)).reshape(-1, 1, 8, 8) / 16


digits = load_digits()
seen, held_out, seen_digits, held_out_digits = train_test_split(
    digits.data, digits.target, test_size=0.5, random_state=7
)

torch.manual_seed(7)
torch.set_num_threads(1)
network = new_network()
optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
images, labels = as_images(seen), torch.from_numpy(seen_digits)
for _ in range(20):
    for chosen in torch.split(torch.randperm(len(images)), 64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[chosen]), labels[chosen]).backward()
        optimizer.step()
folder = tempfile.TemporaryDirectory()  # gone when this script ends; replicas on other nodes would need a shared one
path = Path(folder.name, "network.pt")
torch.save(network.state_dict(), path)


class Network:
    def __init__(self, path: Path) -> None:
        torch.set_num_threads(1)  # the other core is for who sends and carries the requests
        self.network = new_network()
        self.network.load_state_dict(torch.load(path, weights_only=True))
        self.network.eval()

    @serve.accept_batch
    @torch.inference_mode()
    def __call__(self, batch: list[flask.Request]) -> list[dict[str, Any]]:
        images = as_images([request.get_json()["pixels"] for request in batch])
        found = self.network(images).argmax(dim=1).tolist()
        return [{"digit": digit, "batch_size": len(batch)} for digit in found]


instance = serve.init(http_port=0)
serve.create_backend("network", Network, path, config={"max_batch_size": 32})
serve.create_endpoint("digits", "/digits", methods=["POST"], backend="network")

bodies = [json.dumps({"pixels": row.tolist()}).encode() for row in held_out]
load = Load(f"{instance.url}/digits", bodies)
right = load.share_right("digit", held_out_digits.tolist())
print(f"{len(bodies)} held-out images over HTTP: {right:.1%} read right")
load.compare("network")
