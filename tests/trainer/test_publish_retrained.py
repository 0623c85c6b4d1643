"""The retrained model, published in the scrubbed one's place."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny
from erasediff.launch.cli import main
from erasediff.trainer.config import (
    EngineConfig,
    EraseConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
    UNetConfig,
)
from erasediff.trainer.config.toml import dump_toml
from erasediff.trainer.erase import _hold_published_to, run_erase
from erasediff.trainer.errors import ConfigError, NotShownError, ThresholdError
from erasediff.trainer.evidence.collect import Evidence
from erasediff.trainer.evidence.ledger import entry_paths
from erasediff.trainer.evidence.publication import Candidate
from erasediff.trainer.evidence.record import read_record
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.lineage import read_lineage
from erasediff.trainer.pretrain import run_pretrain
from evidence_cases import sha256_of_file


def test_the_retrained_model_is_published_where_the_scrub_fails(
    config: EraseConfig, digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A scrub that does nothing, beside a model that draws no 3."""
    retrained = run_pretrain(
        PretrainConfig(
            data=str(digits / "split" / "remain"),
            output=str(tmp_path / "retrained"),
            unet=UNetConfig(block_out_channels=(8, 8), norm_num_groups=4),
            train=TrainConfig(max_train_steps=3, train_batch_size=4),
            optimizer=OptimizerConfig(learning_rate=0.1),
            engine=EngineConfig(device="cpu"),
        )
    )
    thresholds = ("p_psi <= retrained + 0.05", "accuracy_remaining >= 0")
    judge = dataclasses.replace(
        config.judge, retrained=str(retrained), thresholds=thresholds, num_forget_samples_per_class=60
    )
    idle = dataclasses.replace(config, optimizer=OptimizerConfig(learning_rate=1e-9), judge=judge, publish="shown")
    (tmp_path / "erase.toml").write_text(dump_toml(idle))
    assert main(["erase", str(tmp_path / "erase.toml")]) == 1
    told = capfd.readouterr()
    assert "--publish retrained` publishes it instead" in told.out and "no model is published" in told.err
    output = Path(config.output)
    assert "**FAILED**" in (output / "scrub" / "model" / "README.md").read_text()

    stamp = (output / "record.json").stat().st_mtime_ns
    assert main(["erase", str(tmp_path / "erase.toml"), "--publish", "retrained"]) == 0
    assert (output / "record.json").stat().st_mtime_ns == stamp, "on the same evidence"
    record = read_record(output / "record.json")
    assert (record.verdict, record.retrained_verdict) == ("failed", "shown")
    assert sha256_of_file(output / "model") == record.models["retrained"].weights_sha256
    card, lineage = (output / "model" / "README.md").read_text(), read_lineage(output / "model")
    assert "Retrained with erasediff" in card and "forgetting **shown**" in card
    # a later request leaves this one's samples out, too
    assert [one.id for one in lineage.forgotten] == ["r-1"] and len(lineage.forgotten[0].keys) == 183
    assert [data.num_samples for data in lineage.trained_on or ()] == [1797 - 183]

    # it is not taken for the scrubbed model
    within = dataclasses.replace(idle, publish="within-limits")
    record_path = output / "record.json"
    with pytest.raises(ThresholdError):
        run_erase(within)
    evidence = Evidence(record, record_path, output / "report.html")
    # killed after the entry and before the model appeared: it is not said twice
    entries = entry_paths(output)
    offered = dataclasses.replace(idle, publish="retrained")
    again = Candidate("retrained", retrained, offered)
    again.copy(tmp_path / "again", output / "model", load_model(idle.model), record.remain, evidence)
    assert entry_paths(output) == entries and (tmp_path / "again" / "README.md").read_text() == card
    scrubbed = Candidate("scrubbed", output / "scrub" / "model", within)
    with pytest.raises(ConfigError, match="is not the scrubbed model that this call would publish: move it away"):
        _hold_published_to(scrubbed, output / "model", evidence)


@pytest.mark.parametrize("options", [{}, {"retrained": "record.json"}])
def test_there_must_be_a_retrained_model_to_publish(config: EraseConfig, options: dict[str, str]) -> None:
    judge = dataclasses.replace(config.judge, **options)
    with pytest.raises(ConfigError, match=r"publish = 'retrained': .*: set judge\.with_retrained, or name a model's"):
        run_erase(dataclasses.replace(config, judge=judge, publish="retrained"))
    assert not Path(config.output).exists()


def test_a_retrained_model_of_unknown_training_is_not_published(config: EraseConfig, tmp_path: Path) -> None:
    """Nobody knows that it never saw the 3."""
    stranger = tiny.make_pipeline(tmp_path / "stranger", seed=2)
    judge = dataclasses.replace(
        config.judge, retrained=str(stranger), thresholds=("accuracy_remaining >= 0", "p_psi >= 0")
    )
    with pytest.raises(NotShownError, match="of the retrained model: forgetting is not shown"):
        run_erase(dataclasses.replace(config, judge=judge, publish="retrained"))
    record = read_record(Path(config.output) / "record.json")
    assert not any("--publish retrained" in line for line in record.advice)
    evidence = Evidence(record, Path(config.output) / "record.json", Path(config.output) / "report.html")
    offered = dataclasses.replace(config, judge=judge, publish="retrained")
    candidate = Candidate("retrained", stranger, offered)
    unscrubbed = load_model(config.model)
    with pytest.raises(ConfigError, match="whether it saw the forget set is not known: it is not published"):
        candidate.copy(tmp_path / "published", tmp_path, unscrubbed, record.remain, evidence)
