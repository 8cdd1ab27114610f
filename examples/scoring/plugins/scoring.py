"""Pictures of digits are read by a model that each process loads once."""

from collections.abc import Iterator
from pathlib import Path

from runner import Context, task


@task
def train(*, model: str, trees: int) -> None:
    """Train a small model, unless it is there, on the digits that come with scikit-learn."""
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    if not Path(model).exists():
        digits = load_digits()
        joblib.dump(RandomForestClassifier(trees, random_state=1).fit(digits.data, digits.target), model)


@task
def pictures(*, times: int) -> Iterator[tuple[int, list[int]]]:
    """Each digit of the data set, with a number: 64 shades of grey."""
    from sklearn.datasets import load_digits

    shades = load_digits().data.astype(int).tolist()
    for number in range(times * len(shades)):
        yield number, shades[number % len(shades)]


@task
class Score:
    """Reads digits in batches, as models like them."""

    def __init__(self, context: Context, *, model: str) -> None:
        import joblib

        self.model = joblib.load(model)  # once in each process, not once for each item
        print("model loaded by", context.worker)

    def __call__(self, pictures: list[tuple[int, list[int]]]) -> Iterator[dict[str, object]]:
        numbers, shades = zip(*pictures, strict=True)
        for number, chances in zip(numbers, self.model.predict_proba(shades).tolist(), strict=True):
            certainty = max(chances)
            yield {"picture": number, "digit": chances.index(certainty), "certainty": certainty}
