"""`erasediff launch doctor` of settings: what the run would refuse, and what it will write."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from doctor_cases import look, write_run
from erasediff.launch.doctor.config import read_run
from erasediff.launch.doctor.finding import Finding
from erasediff.shards.errors import DataError
from erasediff.trainer import scrubbing
from erasediff.trainer.config import ScrubConfig
from erasediff.trainer.errors import ConfigError


@pytest.fixture
def run_toml(digits: Path, base_model: Path, tmp_path: Path) -> Path:
    return write_run(digits, base_model, tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--remain", "{digits}/split/forget"], "share keys"),
        (["--engine.precision", "bf16", "--method.barrier", "value"], "bf16"),
        (["--engine.zero-stage", "3", "--engine.reduce-bucket-size", "100"], "engine.reduce_bucket_size"),
        (["--train.layers", "nothing"], "train.layers"),
        (["--method.anchor", "12"], "method.anchor"),
    ],
)
def test_what_the_run_would_refuse_is_refused(run_toml: Path, digits: Path, words: list[str], said: str) -> None:
    words = [word.format(digits=digits) for word in words]
    found = look(run_toml, *words)
    assert found["settings"].state == "failed" and "disk" not in found
    with pytest.raises((ConfigError, DataError)) as refused:
        scrubbing.check(cast(ScrubConfig, read_run(str(run_toml), words, "doctor")))
    assert found["settings"].found == str(refused.value) and said in str(refused.value)


def test_an_erasure_that_would_be_refused_is_too(digits: Path, base_model: Path, tmp_path: Path) -> None:
    (tmp_path / "request.toml").write_text('[[selectors]]\nlabels = ["eleven"]\n')
    text = f'request = "{tmp_path}/request.toml"\ndata = "{digits}/data"\noutput = "{tmp_path}/out"\n'
    (tmp_path / "erase.toml").write_text(f'{text}model = {{ path = "{base_model}", null_class = 10 }}\n')
    found = look(tmp_path / "erase.toml", "--engine.device", "cpu")
    assert found["settings"].state == "failed" and "eleven" in found["settings"].found
    (tmp_path / "request.toml").write_text('[[selectors]]\nlabels = ["3"]\n')
    found = look(tmp_path / "erase.toml", "--engine.device", "cpu")
    assert found["settings"].state == "ok" and found["disk"].state == "ok"


def test_a_checkpoint_has_what_trains_and_what_the_method_keeps(run_toml: Path) -> None:
    whole, layer, salun = (
        look(run_toml, *words)
        for words in ([], ["--train.layers", "conv_out.*"], ["--method.name", "salun", "--method.target", "noise"])
    )

    def checkpoint_bytes(found: dict[str, Finding]) -> float:
        number, unit = found["disk"].found.partition(" checkpoints of ")[2].split()[:2]
        return float(number) * {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]

    assert checkpoint_bytes(layer) < checkpoint_bytes(whole) / 10
    # θ and two moments, and the mask
    assert checkpoint_bytes(salun) == pytest.approx(checkpoint_bytes(whole) * 4 / 3, rel=0.05)
