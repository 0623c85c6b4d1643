"""The command, on whose rank 1 the samples of step 2 never come; its rank 0 is left to find out."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from erasediff.launch.cli import main
from erasediff.shards.streaming.stream import Stream
from erasediff.trainer.ranks.collectives import end_process

original = Stream.batch


def batch(self: Stream, step: int, *rest: Any) -> Any:
    if os.environ["RANK"] == "1" and step == 2:
        time.sleep(1000)
    return original(self, step, *rest)


Stream.batch = batch  # pyright: ignore[reportAttributeAccessIssue]
end_process(main(sys.argv[1:]))
