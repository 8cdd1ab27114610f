"""Pictures of digits are read by a model that each process loads once."""

from collections.abc import Iterator
from typing import Any

from runner import Context, task


@task
class Score:
    """Reads digits in batches, as models like them."""

    def __init__(self, context: Context, *, model: str) -> None:
        import joblib

        self.model = joblib.load(model)  # once in each process, not once for each item
        print("model loaded by", context.worker)

    def __call__(self, pictures: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        chances = self.model.predict_proba([picture["shades"] for picture in pictures]).tolist()
        for picture, row in zip(pictures, chances, strict=True):
            yield {"picture": picture["picture"], "digit": row.index(max(row)), "certainty": max(row)}
