"""A request on a model that has been through others: what they had it forget stays out, and is measured again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from erasediff.shards.dataset import Dataset
from erasediff.shards.requests.request import Request, Selector
from erasediff.shards.requests.split import split
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import EngineConfig, EraseConfig, ModelConfig, SamplingConfig, TrainConfig
from erasediff.trainer.erase import dry_run, run_erase
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.classifier import load_classifier
from erasediff.trainer.evidence.images import Images
from erasediff.trainer.evidence.membership import sample_losses
from erasediff.trainer.evidence.record import EarlierEntry
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.sampling import sample
from evidence_cases import TWELVE, forget_twelve, tiny_judge


@pytest.fixture(scope="module")
def without_twelve(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forget_twelve(digits, base_model, tmp_path_factory.mktemp("twelve"))


def erasure(data: Path, model: Path, folder: Path, classifier: Path, labels: list[str], **judge: str) -> EraseConfig:
    folder.mkdir(exist_ok=True)
    (folder / "request.toml").write_text(f'id = "r-{labels[0]}"\n[[selectors]]\nlabels = {json.dumps(labels)}\n')
    return EraseConfig(
        request=str(folder / "request.toml"),
        model=ModelConfig(str(model)),
        data=str(data),
        output=str(folder / "erased"),
        publish="within-limits",
        train=TrainConfig(max_train_steps=2, train_batch_size=4),
        engine=EngineConfig(device="cpu"),
        judge=tiny_judge(classifier, **judge),
    )


def test_a_second_request_does_not_put_the_first_one_back(
    digits: Path, without_twelve: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the whole dataset as data, twelve samples of it are left out and the whole history is handed on.

    And what was forgotten before is measured again.
    """
    unseen = [key for key in Dataset.open(digits / "data").keys[::9] if key not in TWELVE]
    split(digits / "data", tmp_path / "parts", request=Request((Selector(keys=tuple(unseen)),)))
    training, held_out = tmp_path / "parts" / "remain", tmp_path / "parts" / "forget"
    data = Dataset.open(training)
    of_class = {"3": set(), "8": set()}
    for key, label in zip(data.keys, data.labels, strict=True):
        if data.classes[label] in of_class:
            of_class[data.classes[label]].add(key)
    assert set(TWELVE) - of_class["3"] - of_class["8"]
    first = run_erase(erasure(training, without_twelve, tmp_path / "one", classifier, ["3"], held_out=str(held_out)))
    said = capsys.readouterr().out
    assert "left out    " in said
    assert f"again       {len(of_class['3'] & set(TWELVE))} of the {len(of_class['3'])} samples are of requests" in said
    remain = set(Dataset.open(tmp_path / "one" / "erased" / "split" / "remain").keys)
    assert remain == set(data.keys) - of_class["3"] - set(TWELVE)
    assert set(Dataset.open(tmp_path / "one" / "erased" / "split" / "forget").keys) == of_class["3"]
    record = first.evidence.record
    assert record.forgotten_before == [EarlierEntry("r-1", "2026-11-20", [], 12, num_measured=12)]
    assert record.follows is None, "a scrub by itself publishes nothing"
    # the twelve are told from unseen samples of their classes as before; what of them is a 3 is in D_f
    again = [key for key in TWELVE if key not in of_class["3"]]
    base = load_model(ModelConfig(str(without_twelve)))
    members = Images.of_data(data.only(np.isin(data.keys, again)), base)
    others = Images.of_data(Dataset.open(held_out), base, labels=sorted({*members.labels.tolist()}))
    losses = [
        sample_losses(base, some, seed=0, batch_size=32, device=torch.device("cpu")) for some in (members, others)
    ]
    rank = scipy.stats.mannwhitneyu(-losses[0], -losses[1]).statistic
    found = record.models["unscrubbed"].metrics
    assert found["membership_auc_earlier"].value == pytest.approx(rank / len(members) / len(others))
    assert found["membership_auc_earlier"].n == len(members) + len(others)
    assert found["membership_gap_earlier"].value == pytest.approx(abs(rank / len(members) / len(others) - 0.5))
    assert "p_psi_earlier" not in found, "no class was gone"
    forgotten = json.loads((first.model / "erasediff.json").read_text())["forgotten"]
    assert [(one["id"], one["classes"], len(one["keys"])) for one in forgotten] == [
        ("r-1", {}, 12),
        ("r-3", {"3": 3}, len(of_class["3"])),
    ]

    # a third one: all of the 3 stays out, and it is no class to relabel to
    config = erasure(training, first.model, tmp_path / "two", classifier, ["8"])
    anchored = dataclasses.replace(config, method=EraseDiffConfig(anchor=3))
    with pytest.raises(ConfigError, match=r"method\.anchor = 3 is a class that the model has forgotten"):
        run_erase(anchored)
    assert f"again       {len(of_class['8'] & set(TWELVE))} of the {len(of_class['8'])} samples are" in dry_run(config)
    assert "\nclasses     8 → 8, 0 → 0" in dry_run(config)
    same = dataclasses.replace(config, request=str(tmp_path / "one" / "request.toml"))
    assert f"again       {len(of_class['3'])} of the {len(of_class['3'])} samples are of" in dry_run(same)
    second = run_erase(config)
    remain = Dataset.open(tmp_path / "two" / "erased" / "split" / "remain")
    assert set(remain.keys) == set(data.keys) - of_class["3"] - of_class["8"] - set(TWELVE)
    assert 3 not in remain.labels
    record = second.evidence.record
    assert [one.id for one in record.forgotten_before] == ["r-1", "r-3"]
    assert [one.num_measured for one in record.forgotten_before] == [12, len(of_class["3"])]
    assert record.follows is not None and Path(record.follows.path).parents[1] == tmp_path / "one" / "erased"
    judge = load_classifier(classifier)
    for name, model in (("unscrubbed", first.model), ("scrubbed", second.model)):
        sampling = SamplingConfig(num_inference_steps=2, seed=4)  # noise of its own
        images = sample(load_model(ModelConfig(str(model))), [3] * 12, sampling)
        metrics = record.models[name].metrics
        expected = judge.probabilities(images)[:, 3].mean().item()
        assert metrics["p_psi_earlier"].value == pytest.approx(expected, rel=1e-6)
        assert metrics["p_psi_earlier"].seed == sampling.seed
        assert [*metrics["p_psi_earlier"].by_class] == ["3"] and metrics["p_psi_earlier_worst_class"].of_class == "3"
    assert "membership_auc_earlier" not in record.models["scrubbed"].metrics, "no held-out samples were named"
    written = json.loads((tmp_path / "two" / "erased" / "split" / "request.json").read_text())
    assert written["num_left_out"] == len(data) - len(remain) - len(of_class["8"])
