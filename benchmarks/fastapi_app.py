"""POST /double in FastAPI, with a model for the body: {"x": 1} → {"y": 2}. Served by uvicorn and by RayServe alike."""

from __future__ import annotations

import fastapi
import pydantic

__all__ = ["app"]

app = fastapi.FastAPI()


class Question(pydantic.BaseModel):
    """The body."""

    x: int


@app.post("/double")
async def double(question: Question) -> dict[str, int]:
    """Answer twice the number."""
    return {"y": 2 * question.x}
