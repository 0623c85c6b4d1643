"""The model that never saw the forget set: what it was trained on, its classes, and that all are sampled alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from erasediff.trainer.config import (
    EngineConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    SamplingConfig,
    TrainConfig,
    UNetConfig,
)
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.collect import run_evaluate
from erasediff.trainer.evidence.retrained import load_retrained
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.models.schedule import DDPMSchedule
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.randomness import sample_generator
from evidence_cases import edit_json, make_run, tiny_evaluation


def pretrained(data: str, output: Path) -> Path:
    config = PretrainConfig(
        data=data,
        output=str(output),
        unet=UNetConfig(block_out_channels=(8, 8), norm_num_groups=4),
        train=TrainConfig(max_train_steps=1, train_batch_size=4),
        optimizer=OptimizerConfig(),
        engine=EngineConfig(device="cpu"),
    )
    return run_pretrain(config)


def test_what_it_was_trained_on_is_known_wherever_it_lies(
    digits: Path, run: Path, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative data path that leads nowhere from here hides nothing."""
    monkeypatch.chdir(digits)
    saw_all = pretrained("data", tmp_path / "all")
    monkeypatch.chdir(tmp_path)
    (trained_on,) = json.loads((saw_all / "erasediff.json").read_text())["trained_on"]
    assert (trained_on["name"], trained_on["num_samples"]) == ("digits", 1797)
    moved = shutil.copytree(saw_all, tmp_path / "moved")  # away from its run, too
    for retrained in (saw_all, moved):
        with pytest.raises(ConfigError, match="was trained on 'digits', which is not this run's remain set"):
            run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(retrained)))
    # one of an older erasediff: its run knows
    (saw_all / "erasediff.json").unlink()
    with pytest.raises(ConfigError, match="was trained on 'data', which is not this run's remain set"):
        run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(saw_all)))


def test_where_nothing_is_known_a_line_says_so(
    digits: Path, run: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = tiny.make_pipeline(tmp_path / "stranger", seed=2)
    judged = tiny_evaluation(run, digits, classifier, retrained=str(stranger))
    record = run_evaluate(judged, output=tmp_path).record
    said = f"retrained   what '{stranger}' was trained on is not on record"
    assert said in capsys.readouterr().out
    assert any(note.startswith(said) for note in record.notes)
    honest = pretrained(str(digits / "split" / "remain"), tmp_path / "honest")
    record = run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(honest)), output=tmp_path).record
    assert not any(note.startswith("retrained") for note in record.notes)
    # of two sets of one name, as two requests on the same data leave them, each counts
    (seen,) = json.loads((honest / "erasediff.json").read_text())["trained_on"]
    for others in ([seen | {"fingerprint": "0" * 64}, seen], [seen, seen | {"fingerprint": "0" * 64}]):
        edit_json(honest / "erasediff.json", trained_on=others)
        with pytest.raises(ConfigError, match="was trained on 'digits-remain', which is not this run's remain set"):
            run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(honest)), output=tmp_path)
    edit_json(honest / "erasediff.json", trained_on=[])
    capsys.readouterr()
    run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(honest)), output=tmp_path)
    assert f"retrained   what '{honest}' was trained on is not on record" in capsys.readouterr().out


def test_one_whose_classes_stand_in_another_order_is_refused(
    digits: Path, run: Path, classifier: Path, tmp_path: Path
) -> None:
    names = [str(digit) for digit in range(10)]
    base = shutil.copytree(run / "model", tmp_path / "base")
    other = tiny.make_pipeline(tmp_path / "other", seed=2)
    edit_json(other / "model_index.json", id2label={str(i): name for i, name in enumerate([*names[::-1], ""])})
    model = load_model(ModelConfig(str(base)))
    with pytest.raises(ConfigError, match="calls class 0 '9', the scrubbed model '0'"):
        load_retrained(ModelConfig(str(other), null_class=10), model)
    edit_json(other / "model_index.json", id2label={str(i): name for i, name in enumerate(names)})
    load_retrained(ModelConfig(str(other), null_class=10), model)


def test_all_models_are_sampled_alike(base_model: Path, tmp_path: Path) -> None:
    """It keeps the noise schedule it was trained with, and is sampled with the scrubbed model's settings."""
    base = shutil.copytree(base_model, tmp_path / "base")
    sampler = {"timestep_spacing": "trailing", "clip_sample": False}
    settings = base / "scheduler" / "scheduler_config.json"
    edit_json(settings, **sampler)
    # what a config leaves out diffusers takes as the default, of whatever class of scheduler
    settings.write_text(json.dumps({k: v for k, v in json.loads(settings.read_text()).items() if k != "beta_schedule"}))
    other = tiny.make_pipeline(tmp_path / "other", seed=2, prediction_type="v_prediction")
    trained_with = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500}
    own = {"timestep_spacing": "leading", "clip_sample_range": 0.3, "thresholding": True}
    edit_json(other / "scheduler" / "scheduler_config.json", **trained_with, **own)
    retrained = load_retrained(
        ModelConfig(str(other), null_class=10), load_model(ModelConfig(str(base), null_class=10))
    )

    # diffusers' own loop with the settings as they should be
    scheduler = DDIMScheduler(prediction_type="v_prediction", **trained_with, **sampler)
    scheduler.set_timesteps(5)
    noise = [sample_generator(3, "sample", i).standard_normal((1, 8, 8), dtype="float32") for i in range(2)]
    x, labels = torch.stack([torch.from_numpy(image) for image in noise]), torch.tensor([4, 7])
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(retrained.module(x, t, class_labels=labels).sample, int(t), x, return_dict=False)[0]
    config = SamplingConfig(guidance_scale=1.0, num_inference_steps=5, seed=3)
    torch.testing.assert_close(sample(retrained, [4, 7], config), x.clamp(-1, 1), rtol=0, atol=1e-6)
    # what its loss is measured with is its own
    expected = DDPMScheduler(**trained_with).alphas_cumprod
    assert isinstance(retrained.schedule, DDPMSchedule)
    assert torch.equal(retrained.schedule.scheduler.alphas_cumprod, expected)


def test_more_steps_than_it_was_trained_with(digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
    other = tiny.make_pipeline(tmp_path / "other", seed=2)
    edit_json(other / "scheduler" / "scheduler_config.json", num_train_timesteps=1)
    with pytest.raises(ConfigError, match=r"judge\.sampling\.num_inference_steps = 2: from 1 to the model's 1"):
        run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(other)))


def test_retraining_needs_images_of_the_models_shape(digits: Path, classifier: Path, tmp_path: Path) -> None:
    from erasediff.shards.dataset import Dataset
    from erasediff.shards.requests.split import split
    from erasediff.shards.writing.build import build
    from PIL import Image

    base = pretrained(str(digits / "data"), tmp_path / "base")
    original = Dataset.open(digits / "data")
    for i in range(60):
        image = tmp_path / "pictures" / original.classes[original.labels[i]] / f"{i}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(original.read(i).image[..., 0]).resize((16, 16)).save(image)
    build(tmp_path / "pictures", tmp_path / "data")
    split(tmp_path / "data", tmp_path / "split", ["3"])
    run = make_run(tmp_path, base, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"judge\.with_retrained: .* holds images of another shape"):
        run_evaluate(tiny_evaluation(run, tmp_path, classifier, with_retrained=True))
