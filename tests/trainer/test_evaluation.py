"""Evaluation of real, tiny models: what is measured, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import ranks
import tiny
import torch
from diffusers import DDPMScheduler
from erasediff.launch.cli import main
from erasediff.shards.dataset import Dataset
from erasediff.shards.errors import DataError
from erasediff.shards.requests.request import Request, Selector
from erasediff.shards.requests.split import split
from erasediff.trainer.config import (
    EngineConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    RelearnConfig,
    SamplingConfig,
    TrainConfig,
    UNetConfig,
)
from erasediff.trainer.config.toml import as_dict, read_toml
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence import metrics
from erasediff.trainer.evidence.classifier import load_classifier, read_images, train_classifier
from erasediff.trainer.evidence.collect import Evidence, run_evaluate
from erasediff.trainer.evidence.evaluation import evaluate
from erasediff.trainer.evidence.features import make_features
from erasediff.trainer.evidence.finished import FinishedScrub
from erasediff.trainer.evidence.images import Asked, Images
from erasediff.trainer.evidence.making import make_bench
from erasediff.trainer.evidence.membership import membership_auc, sample_losses
from erasediff.trainer.evidence.relearning import relearn
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.sampling import CHUNK, sample
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.randomness import sample_generator
from erasediff.trainer.run.provenance import weights_sha256
from erasediff.trainer.scrubbing import run_scrub
from evidence_cases import edit_json, make_classifier, make_run, sha256_of_file, tiny_evaluation
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def classifier(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(digits, tmp_path_factory.mktemp("judge") / "classifier.safetensors")


@pytest.fixture(scope="module")
def run(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(digits, base_model, tmp_path_factory.mktemp("run") / "scrub")


@pytest.fixture(scope="module")
def evidence(digits: Path, run: Path, classifier: Path) -> Evidence:
    return run_evaluate(tiny_evaluation(run, digits, classifier, relearn=True))


def test_models_stand_side_by_side(evidence: Evidence) -> None:
    record = evidence.record
    assert list(record.models) == ["unscrubbed", "scrubbed"]
    names = set(record.models["scrubbed"].metrics)
    assert names >= {"p_psi", "entropy", "accuracy_remaining", "frechet_distance[digits-cnn]", "recall[digits-cnn]"}
    for entry in record.models.values():
        assert all(measurement.value is not None for measurement in entry.metrics.values()), entry.metrics
        assert entry.metrics["p_psi"].n == 12 and entry.metrics["accuracy_remaining"].n == 135
        assert entry.metrics["p_psi"].seed == 0 and entry.metrics["accuracy_remaining"].seed == 1
        assert [point.step for point in entry.relearning] == [0, 1, 2]
    assert record.forgotten_classes == ["3"]
    assert (record.forget.num_samples, record.remain.num_samples) == (183, 1614)


def test_integrity_has_floor_zero_and_a_ceiling(evidence: Evidence) -> None:
    unscrubbed, scrubbed = (evidence.record.models[name].metrics for name in ("unscrubbed", "scrubbed"))
    for side in ("remaining", "forgotten"):
        assert unscrubbed[f"integrity_{side}[digits-cnn]"].value == 0.0
        ceiling = unscrubbed[f"integrity_ceiling_{side}[digits-cnn]"].value
        moved = scrubbed[f"integrity_{side}[digits-cnn]"].value
        # three steps move a model, but less than other noise does
        assert ceiling is not None and moved is not None and 0 < moved < ceiling


def test_figures_are_of_the_images_they_name(digits: Path, run: Path, classifier: Path) -> None:
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    figures = evaluate(scrubbed.scrubbed, bench)
    forget, remain = (
        bench.features(torch.from_numpy(read_images(data, 8, 1).images)) for data in (scrubbed.forget, scrubbed.remain)
    )
    made = {side: bench.features(getattr(figures.samples, side).images) for side in ("forget", "remain")}
    assert len(forget) == 183 and len(remain) == 1614
    expected = {
        "frechet_distance": metrics.frechet_distance(remain, made["remain"]),
        "precision": metrics.precision_recall(remain, made["remain"], k=3)[0],
        "recall": metrics.precision_recall(remain, made["remain"], k=3)[1],
        "nearest_to_forget": metrics.nearest_distance(forget, made["forget"]),
    }
    for name, value in expected.items():
        assert figures.metrics[f"{name}[digits-cnn]"].value == pytest.approx(value.item(), rel=1e-6), name


def test_every_image_has_noise_of_its_own(base_model: Path) -> None:
    model = load_model(ModelConfig(str(base_model), null_class=10))
    images = sample(model, [3] * (CHUNK + 6), SamplingConfig(num_inference_steps=2))
    # farther apart than rounding: a chunk of another size rounds otherwise
    assert torch.nn.functional.pdist(images.flatten(1)).min() > 0.1


def test_a_class_by_itself_is_judged_on_its_own_samples(digits: Path, run: Path, classifier: Path) -> None:
    """Two classes forgotten: P_psi of each, by hand from the images, and the worse of the two."""
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    bench = dataclasses.replace(
        bench, forget_conditions={c: [c] for c in (3, 7)}, remain_conditions={c: [c] for c in (0, 1, 2, 4, 5, 6, 8, 9)}
    )
    figures = evaluate(scrubbed.scrubbed, bench)
    judge, shown = bench.classifier, figures.samples
    by_hand: dict[str, list[float]] = {"3": [], "7": []}
    for image, label in zip(shown.forget.images, shown.forget.labels.tolist(), strict=True):
        by_hand[str(label)].append(judge.probabilities(image[None])[0, label].item())
    found = figures.metrics["p_psi"].by_class
    assert {name: len(values) for name, values in by_hand.items()} == {"3": 12, "7": 12}
    for name, values in by_hand.items():
        assert found[name].value == pytest.approx(sum(values) / 12, rel=1e-5) and found[name].n == 12
    worst = max(by_hand, key=lambda name: sum(by_hand[name]))
    assert figures.metrics["p_psi_worst_class"].of_class == worst
    assert figures.metrics["p_psi_worst_class"].value == found[worst].value

    right: dict[str, list[bool]] = {name: [] for name in "01245689"}
    for image, label in zip(shown.remain.images, shown.remain.labels.tolist(), strict=True):
        right[str(label)].append(judge.probabilities(image[None])[0].argmax().item() == label)
    kept = figures.metrics["accuracy_remaining"].by_class
    assert {name: kept[name].value for name in right} == {name: sum(values) / 15 for name, values in right.items()}
    assert figures.metrics["accuracy_worst_class"].value == min(sum(values) / 15 for values in right.values())


def test_only_images_of_the_asked_classes_are_loaded(digits: Path, base_model: Path) -> None:
    """Before they are counted: the first five of a class that is one in ten."""
    data = Dataset.open(digits / "data")
    model = load_model(ModelConfig(str(base_model), null_class=10))
    found = Images.of_data(data, model, 5, labels=[7])
    assert found.labels.tolist() == found.conditions == [7] * 5
    sevens = {data.read(i).image.tobytes() for i in range(len(data)) if data.labels[i] == 7}
    for image in found.images:
        assert ((image[0] + 1) * 127.5).round().to(torch.uint8).numpy().tobytes() in sevens
    assert len(Images.of_data(data, model, labels=[7, 8])) == int(((data.labels == 7) | (data.labels == 8)).sum())


def test_the_weights_evaluated_are_the_weights_saved(evidence: Evidence, run: Path, base_model: Path) -> None:
    entries = evidence.record.models
    assert entries["scrubbed"].weights_sha256 == sha256_of_file(run / "model")
    assert entries["unscrubbed"].weights_sha256 == sha256_of_file(base_model)
    assert entries["scrubbed"].weights_sha256 != entries["unscrubbed"].weights_sha256


def test_two_ranks_find_the_same(digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
    records = []
    for world_size in (1, 2):
        copy = tmp_path / f"run-{world_size}"
        shutil.copytree(run, copy)
        config = tiny_evaluation(copy, digits, classifier)
        words = ["--run", config.run, "--data", config.data, "--judge.classifier", str(classifier), "--judge.relearn"]
        words += ["--judge.num-forget-samples-per-class", "70", "--judge.num-remain-samples-per-class", "15"]
        words += ["--judge.sampling.num-inference-steps", "2", "--judge.relearning.num-samples", "6"]
        words += ["--judge.relearning.num-steps", "2", "--judge.relearning.num-points", "2"]
        words += ["--judge.thresholds", "accuracy_remaining >= 0", "--judge.device", "cpu"]
        # 3: a threshold on accuracy alone shows no forgetting
        ranks.check(ranks.run_ranks(world_size, ["-m", "erasediff.launch", "evaluate", *words]), status=3)
        records.append(json.loads((copy / "record.json").read_text()))
    one, two = records
    for name in ("unscrubbed", "scrubbed"):
        assert one["models"][name]["metrics"] == two["models"][name]["metrics"]
        assert one["models"][name]["relearning"] == two["models"][name]["relearning"]


def test_samples_that_are_not_finite_are_counted_not_averaged(digits: Path, run: Path, classifier: Path) -> None:
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    embedding = cast(torch.nn.Embedding, scrubbed.scrubbed.module.class_embedding)
    sound = evaluate(scrubbed.scrubbed, bench)
    with torch.no_grad():
        embedding.weight[5] = torch.nan
    found = evaluate(scrubbed.scrubbed, bench).metrics
    # fifteen samples of each of nine classes
    assert found["non_finite_samples"].value == 15
    assert found["accuracy_remaining"].n == 120 and found["accuracy_remaining"].value is not None
    assert found["p_psi"] == sound.metrics["p_psi"]
    frechet = found["frechet_distance[digits-cnn]"]
    assert frechet.value is None and frechet.n == 120 and "at least 129 samples" in str(frechet.reason)
    with torch.no_grad():
        embedding.weight[3] = torch.nan
    found = evaluate(scrubbed.scrubbed, bench).metrics
    assert found["p_psi"].value is None and found["p_psi"].reason == "no finite sample"
    assert found["entropy"].value is None and found["entropy"].reason == "no finite sample"
    # a class without a figure is worse than any
    assert (found["accuracy_worst_class"].of_class, found["accuracy_worst_class"].value) == ("5", None)
    assert found["integrity_forgotten[digits-cnn]"].value is None
    assert found["integrity_forgotten[digits-cnn]"].reason == "no finite sample"


def test_a_ceiling_needs_two_samples_of_each_label(digits: Path, run: Path, classifier: Path) -> None:
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    options = dataclasses.replace(bench.config, num_remain_samples_per_class=1)
    bench = dataclasses.replace(bench, config=options)
    ceiling = evaluate(scrubbed.unscrubbed, bench).metrics["integrity_ceiling_remaining[digits-cnn]"]
    assert ceiling.value is None and ceiling.reason == "needs at least 2 finite samples of each label"


def test_membership_by_the_loss(base_model: Path, digits: Path) -> None:
    model = load_model(ModelConfig(str(base_model), null_class=10))
    shown = Images.of_data(Dataset.open(digits / "data"), model, 24)
    images, labels = shown.images, shown.labels
    losses = sample_losses(model, shown, seed=4, device=CPU)
    scheduler: Any = DDPMScheduler()

    # the last image by hand, noised by diffusers' scheduler
    noise = torch.from_numpy(sample_generator(4, "membership", 23).standard_normal((20, 1, 8, 8), dtype="float32"))
    levels = torch.arange(25, 1000, 50)
    x_t = scheduler.add_noise(images[23:].expand(20, -1, -1, -1), noise, cast(torch.IntTensor, levels))
    with torch.no_grad():
        output = model.module(x_t, levels, class_labels=labels[23:].expand(20)).sample
    assert losses[23].item() == pytest.approx((output - noise).square().mean().item(), rel=1e-5)

    members, others = shown.where(torch.arange(12)), shown.where(torch.arange(12, 24))
    before = membership_auc(model, members, others, seed=4, device=CPU)
    assert before.low is not None and before.high is not None and before.high - before.low < 0.7
    few = membership_auc(model, shown.where(torch.arange(9)), others, seed=4, device=CPU)
    assert (few.low, few.high) == (0, 1), "nine members tell nothing"
    optimizer = torch.optim.Adam(model.module.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(250):
        noise = torch.randn(members.images.shape, generator=generator)
        t = torch.randint(0, 1000, (12,), generator=generator)
        x_t = scheduler.add_noise(members.images, noise, cast(torch.IntTensor, t))
        loss = (model.module(x_t, t, class_labels=members.labels).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = membership_auc(model, members, others, seed=4, device=CPU)
    assert before.n == after.n == 24
    assert before.value is not None and after.value is not None
    assert after.value > max(before.value, 0.7)


def test_relearning_leaves_the_model_alone_and_starts_at_its_p_psi(digits: Path, run: Path, classifier: Path) -> None:
    scrubbed = FinishedScrub.open(run)
    judge = load_classifier(classifier)
    images = Images.of_data(scrubbed.forget, scrubbed.unscrubbed, 8)
    before = weights_sha256(scrubbed.scrubbed.module.state_dict())
    config = RelearnConfig(num_images=8, num_steps=30, num_points=3, num_samples=12, learning_rate=1e-3)
    sampling = SamplingConfig(num_inference_steps=2)
    points = relearn(scrubbed.scrubbed, judge, images, Asked.in_turn({3: [3]}, 12), config, sampling, device=CPU)
    assert [point.step for point in points] == [0, 10, 20, 30]
    assert weights_sha256(scrubbed.scrubbed.module.state_dict()) == before
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    assert points[0].p_psi == evaluate(scrubbed.scrubbed, bench).metrics["p_psi"].value
    assert points[3].p_psi != points[0].p_psi


def test_single_samples_are_judged_by_membership_and_distance(
    digits: Path, base_model: Path, classifier: Path, tmp_path: Path
) -> None:
    split(digits / "data", tmp_path / "sets", request=Request((Selector(keys=("digit-00003", "digit-00013")),)))
    held_out = Request((Selector(keys=tuple(f"digit-{i:05d}" for i in range(100))),))
    split(
        tmp_path / "sets" / "remain",
        tmp_path / "parts",
        request=Request(
            (
                Selector(
                    keys=tuple(key for key in held_out.selectors[0].keys if key not in ("digit-00003", "digit-00013"))
                ),
            )
        ),
    )
    config = tiny.tiny_config(digits, base_model, tmp_path / "run")
    config = dataclasses.replace(
        config, forget=str(tmp_path / "sets" / "forget"), remain=str(tmp_path / "parts" / "remain")
    )
    run_scrub(config)
    judged = tiny_evaluation(tmp_path / "run", digits, classifier, held_out=str(tmp_path / "parts" / "forget"))
    record = run_evaluate(judged).record
    assert record.forgotten_classes == [] and record.forget.num_samples == 2
    found = record.models["scrubbed"].metrics
    assert "p_psi" not in found
    # both are 3s, and so are 9 of the held-out ones
    same_class = sum(label == 3 for label in Dataset.open(tmp_path / "parts" / "forget").labels)
    assert found["membership_auc"].n == 2 + same_class
    assert found["nearest_to_forget[digits-cnn]"].n == 12
    defaults = dataclasses.replace(
        judged,
        judge=dataclasses.replace(
            judged.judge, thresholds=(), retrained=str(tiny.make_pipeline(tmp_path / "other", seed=2))
        ),
    )
    first = run_evaluate(defaults).record.thresholds[0]
    assert first.threshold == "membership_gap <= retrained + 0.05"
    leaking = tiny_evaluation(tmp_path / "run", digits, classifier, held_out=str(digits / "data"))
    with pytest.raises(ConfigError, match="held-out samples are those that no model was trained on"):
        run_evaluate(leaking)


def test_every_column_is_of_the_model_it_names(
    digits: Path, run: Path, base_model: Path, classifier: Path, tmp_path: Path
) -> None:
    """Each model sampled and judged here by itself."""
    other = tiny.make_pipeline(tmp_path / "other", seed=2)
    record = run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(other)), output=tmp_path).record
    judge, found = load_classifier(classifier), {}
    for name, folder in (("unscrubbed", base_model), ("scrubbed", run / "model"), ("retrained", other)):
        model = load_model(ModelConfig(str(folder), null_class=10))
        images = sample(model, [3] * 12, SamplingConfig(num_inference_steps=2, seed=0))
        found[name] = judge.probabilities(images)[:, 3].mean().item()
        assert record.models[name].metrics["p_psi"].value == pytest.approx(found[name], rel=1e-6), name
        assert record.models[name].weights_sha256 == sha256_of_file(folder)
    assert len(set(found.values())) == 3


def test_a_recorded_yardstick_is_named_with_its_date(digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
    other = tiny.make_pipeline(tmp_path / "other", seed=2)
    first = run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(other)), output=tmp_path)
    again = run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(first.record_path)))
    assert again.record.models["retrained"] == first.record.models["retrained"]
    with pytest.raises(ConfigError, match=r"measured with judge\.num_forget_samples_per_class = 12, here it is 13"):
        more = {"num_forget_samples_per_class": 13}
        run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(first.record_path), **more))
    with pytest.raises(ConfigError, match=r"measured with judge\.relearn = False, here it is True"):
        run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(first.record_path), relearn=True))
    # its integrity is the distance to the images of that original
    values = json.loads(first.record_path.read_text())
    values["models"]["unscrubbed"]["weights_sha256"] = "0" * 64
    (tmp_path / "elsewhere.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="was measured beside another unscrubbed model"):
        run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(tmp_path / "elsewhere.json")))


def test_a_yardstick_is_trained_with_the_same_settings(digits: Path, classifier: Path, tmp_path: Path) -> None:
    pretrain = PretrainConfig(
        data=str(digits / "data"),
        output=str(tmp_path / "base"),
        unet=UNetConfig(block_out_channels=(8, 8), norm_num_groups=4),
        train=TrainConfig(max_train_steps=2, train_batch_size=4, seed=7),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        engine=EngineConfig(device="cpu"),
    )
    base = run_pretrain(pretrain)
    run = make_run(digits, base, tmp_path / "run")
    record = run_evaluate(tiny_evaluation(run, digits, classifier, with_retrained=True)).record
    assert record.models["retrained"].metrics["p_psi"].n == 12
    settings = read_toml(run / "retrained" / "config.toml")
    assert settings["data"] == str(digits / "split" / "remain")
    assert settings | {"data": "", "output": ""} == as_dict(pretrain) | {"data": "", "output": ""}
    with pytest.raises(ConfigError, match="is the model before scrubbing, which saw the forget set"):
        run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(base)))


class TestRefusals:
    def test_another_base_model(self, digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
        copy = tmp_path / "run"
        shutil.copytree(run, copy)
        edit_json(copy / "inputs.json", base_weights_sha256="0" * 64)
        with pytest.raises(ConfigError, match=r"is not the model that .* scrubbed: its weights have SHA-256"):
            run_evaluate(tiny_evaluation(copy, digits, classifier))

    def test_a_threshold_on_a_metric_that_is_not_computed(
        self, digits: Path, run: Path, classifier: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        words = ["evaluate", "--run", str(run), "--data", str(digits / "data"), "--judge.classifier", str(classifier)]
        assert main([*words, "--judge.thresholds", "fid <= 3"]) == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert line.startswith("erasediff: judge.thresholds: 'fid <= 3' is on a metric that is not computed")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"thresholds": ("fid <= 3",)}, "on a metric that is not computed"),
            (
                {"thresholds": ("frechet_distance[digits-cnn] <= 9",), "num_remain_samples_per_class": 14},
                r"needs 129 samples, and judge\.num_remain_samples_per_class = 14 of 9 classes makes 126: raise it",
            ),
            ({"features": "nowhere"}, r"judge.features = 'nowhere': classifier, inception"),
            ({"held_out": "nowhere"}, "nowhere: no such dataset folder"),
            ({"retrained": "nowhere"}, r"judge.retrained = 'nowhere': no such folder"),
        ],
    )
    def test_nothing_is_trained_for_what_cannot_be_evaluated(
        self, digits: Path, run: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
    ) -> None:
        monkeypatch.setattr("erasediff.trainer.evidence.making.train_classifier", lambda *_, **__: pytest.fail())
        with pytest.raises((ConfigError, DataError), match=message):
            run_evaluate(tiny_evaluation(run, digits, None, **options))

    def test_what_cannot_be_written(
        self, digits: Path, run: Path, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(OSError, match=r"judge.safetensors' cannot be written: "):
            load_classifier(classifier).save(tmp_path / "nowhere" / "judge.safetensors")
        # tests may run as root, who may write everywhere
        monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
        with pytest.raises(ConfigError, match=r"may not be written: record.json and report.html go there"):
            run_evaluate(tiny_evaluation(run, digits, classifier), output=tmp_path)

    def test_features_of_another_resolution(self, digits: Path, run: Path, tmp_path: Path) -> None:
        other = tmp_path / "classifier.safetensors"
        train_classifier(Dataset.open(digits / "data"), image_size=16, channels=1, num_epochs=1).save(other)
        with pytest.raises(ConfigError, match="takes images of 16 pixels and 1 channels, the model makes 8 pixels"):
            run_evaluate(tiny_evaluation(run, digits, other))

    def test_a_yardstick_of_another_size(self, digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
        other = tiny.make_pipeline(tmp_path / "other", size=16)
        with pytest.raises(ConfigError, match="makes images of 16 pixels, 1 channels and 11 classes"):
            run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(other)))

    def test_the_unscrubbed_model_as_the_yardstick(
        self, digits: Path, run: Path, base_model: Path, classifier: Path, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(base_model, copy)
        with pytest.raises(ConfigError, match="is the model before scrubbing, which saw the forget set"):
            run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(copy)))

    def test_a_damaged_classifier(self, digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
        weights, about = load_file(classifier), safe_open(classifier, "pt").metadata()
        for name, fewer, card in (
            ("no-card", weights, {"format": about["format"]}),
            ("other-card", weights, about | {"card": "{}"}),
            ("no-head", {key: value for key, value in weights.items() if key != "head.weight"}, about),
        ):
            save_file(fewer, tmp_path / name, card)
            with pytest.raises(ConfigError, match=f"{name}' is damaged: leave it out"):
                run_evaluate(tiny_evaluation(run, digits, tmp_path / name))

    def test_retraining_without_known_settings(self, digits: Path, run: Path, classifier: Path) -> None:
        with pytest.raises(ConfigError, match="is not the model/ of an `erasediff pretrain` run"):
            run_evaluate(tiny_evaluation(run, digits, classifier, with_retrained=True))

    def test_an_unfinished_scrub(self, digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
        copy = tmp_path / "run"
        shutil.copytree(run, copy)
        (copy / "attempt-0002").mkdir()  # a later start: the model of the one before it is void
        with pytest.raises(ConfigError, match="is not finished: give the scrub's command again"):
            run_evaluate(tiny_evaluation(copy, digits, classifier))
        shutil.rmtree(copy / "attempt-0002")
        shutil.rmtree(copy / "model")
        with pytest.raises(ConfigError, match="is not finished: give the scrub's command again"):
            run_evaluate(tiny_evaluation(copy, digits, classifier))

    def test_extractors_that_are_not_there(self, classifier: Path, tmp_path: Path) -> None:
        judge = load_classifier(classifier)
        with pytest.raises(ConfigError, match=r"needs torch-fidelity \(No module named 'torch_fidelity'\)"):
            make_features("inception", judge)
        with pytest.raises(ConfigError, match="classifier, inception, or the folder of a CLIP model"):
            make_features(str(tmp_path), judge)
        (tmp_path / "config.json").write_text('{"model_type": "clip"')
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(ConfigError, match="cannot be loaded: Expecting"):
            make_features(str(tmp_path), judge)
        (tmp_path / "model.safetensors").unlink()
        (tmp_path / "config.json").write_text('{"model_type": "clip"}')
        (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
        with pytest.raises(ConfigError, match=r"holds no \.safetensors weights: pickled ones are not read"):
            make_features(str(tmp_path), judge)

    def test_inception_without_its_weights_or_with_code_in_them(
        self, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        judge = load_classifier(classifier)
        with pytest.raises(ConfigError, match=r"its weights are not at .*weights-inception-2015-12-05-6726825d\.pth"):
            make_features("inception", judge)
        (tmp_path / "checkpoints").mkdir()
        torch.save({"weight": tmp_path}, tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth")
        with pytest.raises(ConfigError, match="holds more than weights"):
            make_features("inception", judge)


def test_features_of_a_clip_model(classifier: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=12,
        patch_size=4,
        projection_dim=6,
    )
    network = CLIPVisionModelWithProjection(config).eval()
    network.save_pretrained(tmp_path / "tiny-clip")
    features = make_features(str(tmp_path / "tiny-clip"), load_classifier(classifier))
    assert features.name == "clip-tiny-clip" and features.num_features == 6
    # at CLIP's own resolution only its mean and spread are left to apply
    images = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    with torch.no_grad():
        expected = network(pixel_values=(images - mean) / std).image_embeds
    torch.testing.assert_close(features(images * 2 - 1), expected, rtol=1e-4, atol=1e-5)
    assert features(torch.zeros(2, 1, 8, 8)).shape == (2, 6)
    # what transformers would fill with random numbers
    weights = load_file(tmp_path / "tiny-clip" / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "tiny-clip" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"has no weights for visual_projection\.weight"):
        make_features(str(tmp_path / "tiny-clip"), load_classifier(classifier))
