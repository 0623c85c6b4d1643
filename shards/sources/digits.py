"""scikit-learn's bundled digits: 1,797 real handwritten digits, 8 × 8, grey (UCI ML repository, Alpaydin 1998)."""

import numpy as np

from ..format.images import encode_png
from .source import Entry, ListedSource

_MAX_VALUE = 16


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 [1797, 8, 8], values 0 … 16 scaled to 8 bits; and which digits they are, int [1797]."""
    # half a second of imports that other sources do without
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    return np.rint(values.reshape(-1, 8, 8) * (255 / _MAX_VALUE)).astype(np.uint8), labels


class Digits(ListedSource):
    """The source `digits`: as they are, keys `digit-00000` …"""

    name = "digits"
    classes = tuple("0123456789")

    def __init__(self) -> None:
        pixels, labels = read_digits()
        self._images = [encode_png(image) for image in pixels]
        super().__init__(
            [
                Entry(f"digit-{i:05d}", "png", len(self._images[i]), str(i), label)
                for i, label in enumerate(labels.tolist())
            ]
        )

    def read(self, entry: Entry) -> bytes:
        return self._images[int(entry.location)]
