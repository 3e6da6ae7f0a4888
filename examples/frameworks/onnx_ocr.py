"""Serve text recognition on ONNX Runtime, with a model that rapidocr-onnxruntime brings; measure what batches gain.

    python examples/frameworks/onnx_ocr.py

In goes the image of one line of text, out comes the text. A batch must be as wide as its widest line, so a key keeps
lines of different widths apart: no request pays for another's blank paper, or is read otherwise because of it.
"""

import io
from importlib.metadata import distribution
from itertools import groupby
from typing import Any

import flask
import numpy as np
import onnxruntime
import requests
from load import Load
from PIL import Image, ImageDraw, ImageFont

import rayserve as serve

HEIGHT, WIDTH_STEP = 48, 64  # the model wants lines 48 pixels high
LINES = (
    "RayServe", "hello world", "Invoice 4711", "2026-11-22", "batches of 32", "total 12.50 EUR", "weighted traffic",
    "in order of arrival",
)  # fmt: skip


def width_of(request: flask.Request) -> int:
    """The width of the request's image at the model's height, rounded up to whole steps."""
    width, height = Image.open(io.BytesIO(request.get_data())).size  # reads the file's head only
    return -(-width * HEIGHT // (height * WIDTH_STEP)) * WIDTH_STEP


class Reader:
    def __init__(self, model: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the other core is for who sends and carries the requests
        # Of that package only the file is wanted; importing it would bring in OpenCV.
        path = distribution("rapidocr-onnxruntime").locate_file(f"rapidocr_onnxruntime/models/{model}")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # What the model tells apart: no character, then those of its dictionary, then a space.
        self.alphabet = ["", *self.session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]

    @serve.accept_batch(key=width_of)
    def __call__(self, batch: list[flask.Request]) -> list[dict[str, Any]]:
        pixels = np.zeros((len(batch), 3, HEIGHT, width_of(batch[0])), np.float32)
        for line, request in zip(pixels, batch, strict=True):
            image = Image.open(io.BytesIO(request.get_data())).convert("RGB")
            image = image.resize((image.width * HEIGHT // image.height, HEIGHT))
            line[:, :, : image.width] = np.asarray(image, np.float32).transpose(2, 0, 1)[::-1] / 127.5 - 1  # BGR
        (chances,) = self.session.run(None, {self.session.get_inputs()[0].name: pixels})
        return [{"text": self.text(steps), "batch_size": len(batch)} for steps in chances.argmax(axis=2)]

    def text(self, steps: Any) -> str:
        """From left to right: a character that lasts several steps is one, "no character" is between two."""
        return "".join(self.alphabet[number] for number, _ in groupby(steps))


def drawn(line: str) -> bytes:
    """Return a PNG file of the line in black on white."""
    font = ImageFont.load_default(32)
    image = Image.new("RGB", (int(font.getlength(line)) + 16, HEIGHT), "white")
    ImageDraw.Draw(image).text((8, 4), line, "black", font)
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


instance = serve.init(http_port=0)
serve.create_backend("reader", Reader, "ch_PP-OCRv4_rec_infer.onnx", config={"max_batch_size": 32})
serve.create_endpoint("read", "/read", methods=["POST"], backend="reader")

bodies = [drawn(line) for line in LINES]
for line, body in zip(LINES, bodies, strict=True):
    text = requests.post(f"{instance.url}/read", data=body, timeout=10).json()["text"]
    print(f"drawn: {line}, read: {text}")
load = Load(f"{instance.url}/read", bodies, "image/png")
right = load.share_right("text", LINES)
print(f"{len(bodies)} lines over HTTP, all at once: {right:.1%} read right")
load.compare("reader")
