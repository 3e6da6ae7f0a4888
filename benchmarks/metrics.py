"""What the instance says of itself: one number out of its admin server's /metrics."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from rayserve.admin.token import TOKEN_FILE, URL_FILE
from rayserve.instance import current

__all__ = ["total"]

_SETTLE_S = 2.5  # counts travel once a second from process to process


def total(names: tuple[str, ...], **labels: str) -> list[float]:
    """Return the sum of the samples of each name that carry these labels, once all counts have arrived."""
    time.sleep(_SETTLE_S)
    run_dir = Path(current().info()["run_dir"])
    url, token = ((run_dir / name).read_text().strip() for name in (URL_FILE, TOKEN_FILE))
    question = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(question, timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples if labels.items() <= sample.labels.items()]
    return [sum(sample.value for sample in samples if sample.name == name) for name in names]
