"""What a rank takes for another one's end."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from erasediff.trainer.errors import LostRankError, OneRankError
from erasediff.trainer.ranks import collectives

CLOSED = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"


def test_an_error_of_ours_is_no_lost_rank_whatever_words_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    with pytest.raises(OneRankError, match="igloo"), collectives.naming_lost_ranks():
        raise OneRankError("step 3: igloo/0007 cannot be read")
    with pytest.raises(LostRankError, match="another rank has left"), collectives.naming_lost_ranks():
        raise RuntimeError(CLOSED)
    # what a rank meets whose first one was killed while they meet
    with pytest.raises(LostRankError, match="another rank has left"), collectives.naming_lost_ranks():
        raise dist.DistNetworkError("Failed to recv, got 0 bytes")
    with pytest.raises(RuntimeError, match="something else"), collectives.naming_lost_ranks():
        raise RuntimeError("something else")
    monkeypatch.setattr(collectives, "world_size", lambda: 1)
    with pytest.raises(RuntimeError, match="closed by peer"), collectives.naming_lost_ranks():
        raise RuntimeError(CLOSED)
