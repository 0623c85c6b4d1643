"""WebDataset shards in and out: knows nothing of trainers."""

from .build import build
from .dataset import Dataset, Sample, check_disjoint
from .errors import DataError
from .prefetch import Prefetch
from .split import split
from .stream import SampleBatch, Stream

__all__ = ["DataError", "Dataset", "Prefetch", "Sample", "SampleBatch", "Stream", "build", "check_disjoint", "split"]
