"""WebDataset shards in and out: knows nothing of trainers."""

from .dataset import Dataset, Sample, check_disjoint
from .errors import DataError
from .requests.split import split
from .streaming.prefetch import Prefetch
from .streaming.stream import SampleBatch, Stream
from .writing.build import build

__all__ = ["DataError", "Dataset", "Prefetch", "Sample", "SampleBatch", "Stream", "build", "check_disjoint", "split"]
