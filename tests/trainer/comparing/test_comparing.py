"""A comparison of tiny scrubs: whose figures stand where, what is run again, and what a failed run leaves."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from erasediff.launch.cli import main
from erasediff.shards.dataset import Dataset
from erasediff.trainer.comparing.run import run_compare
from erasediff.trainer.config import CompareConfig, EngineConfig, EvaluateConfig, JudgeConfig, ResNetConfig
from erasediff.trainer.config.toml import dump_toml
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.classifier import load_classifier, load_for
from erasediff.trainer.evidence.collect import run_evaluate
from erasediff.trainer.evidence.features import make_features
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.sampling import sample
from evidence_cases import tiny_judge
from PIL import Image
from safetensors.torch import load_file, save_file
from table_cases import table_of

METHODS: dict[str, Any] = {
    "ours": {"vary": {"method.eta": [2.0]}},
    "finetune": {"method": {"name": "finetune"}, "train": {"max_train_steps": 2}},
    "too fast": {"optimizer": {"learning_rate": 1e9, "name": "sgd"}},
}


@pytest.fixture(scope="module")
def made(
    digits: Path, base_model: Path, classifier: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CompareConfig]:
    """Four rows of two seeds, one of which never ends well."""
    folder = tmp_path_factory.mktemp("compare")
    retrained = tiny.make_pipeline(folder / "retrained", seed=5)
    config = CompareConfig(
        output=str(folder / "out"),
        model=tiny.tiny_config(digits, base_model, folder).model,
        data=str(digits / "data"),
        forget=str(digits / "split" / "forget"),
        remain=str(digits / "split" / "remain"),
        methods=METHODS,
        seeds=(0, 1),
        train={"max_train_steps": 3, "train_batch_size": 4},
        engine=EngineConfig(device="cpu", num_threads=1),
        # one that the unscrubbed model holds, and no other
        judge=tiny_judge(
            classifier,
            retrained=str(retrained),
            relearn=True,
            thresholds=("integrity_remaining[digits-cnn] <= 0.0001",),
        ),
    )
    said: list[str] = []
    run_compare(config, say=said.append)
    (folder / "said.txt").write_text("\n".join(said))
    yield config


def rows(config: CompareConfig) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((Path(config.output) / "rows").glob("*.json"))}


def values(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: (figure["value"], figure["n"]) for name, figure in metrics.items()}


def test_each_row_holds_its_own_models_figures(made: CompareConfig, tmp_path: Path) -> None:
    """What `erasediff evaluate` says of each run by itself."""
    found = rows(made)
    assert sorted(found) == sorted(
        ["unscrubbed", "retrained"]
        + [f"{name}.{seed}" for name in ("ours", "ours-eta=2.0", "finetune", "too-fast") for seed in (0, 1)]
    )
    for slug in ("ours.0", "ours-eta=2.0.1", "finetune.1"):
        asked = EvaluateConfig(run=str(Path(made.output) / "runs" / slug), data=made.data, judge=made.judge)
        record = json.loads(run_evaluate(asked, output=tmp_path).record_path.read_text())
        for name, row in (("scrubbed", slug), ("unscrubbed", "unscrubbed"), ("retrained", "retrained")):
            assert values(found[row]["metrics"]) == values(record["models"][name]["metrics"]), (slug, name)
            assert found[row]["relearning"] == record["models"][name]["relearning"]
        assert found[slug]["verdict"] == record["verdict"]
    distinct = {json.dumps(values(row["metrics"])) for row in found.values() if not row["failed"]}
    assert len(distinct) == 8


def test_what_training_took_is_the_runs_own(made: CompareConfig) -> None:
    found = rows(made)
    ours, finetune = found["ours.0"]["training"], found["finetune.0"]["training"]
    # two gradients and a target a step; one gradient
    assert (ours["num_steps"], ours["num_gradients"], ours["num_forwards"]) == (3, 6, 3)
    assert (finetune["num_steps"], finetune["num_gradients"], finetune["num_forwards"]) == (2, 2, 0)
    run = Path(made.output) / "runs" / "ours.0"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert ours["seconds"] == pytest.approx(sum(line["seconds"] for line in lines))
    assert ours["capped_steps"] == sum(line["capped"] for line in lines)
    # this process holds torch, at least
    (peak,) = json.loads((run / "attempt-0001" / "attempt.json").read_text())["peak_bytes"]
    assert ours["peak_bytes"] == peak and 1e8 < peak < 1e11
    assert found["ours.0"]["settings"]["method.eta"] == 0.5
    assert found["ours-eta=2.0.1"]["settings"]["method.eta"] == 2.0 and found["ours-eta=2.0.1"]["seed"] == 1


def test_distance_is_to_the_retrained_models_images(made: CompareConfig) -> None:
    """Drawn here again, from the noise that the judge draws from, through the judge's own features."""
    sampling = made.judge.sampling
    judge = load_for(str(made.judge.classifier), Dataset.open(made.data), load_model(made.model))
    asked = [[3] * 12, [label for i in range(15) for label in (0, 1, 2, 4, 5, 6, 7, 8, 9)]]
    folders = (Path(made.output) / "runs" / "ours.0" / "model", Path(str(made.judge.retrained)))
    features = []
    for folder in folders:
        model = load_model(dataclasses.replace(made.model, path=str(folder)))
        images = [
            sample(model, labels, dataclasses.replace(sampling, seed=sampling.seed + side), device=torch.device("cpu"))
            for side, labels in enumerate(asked)
        ]
        features.append(make_features("classifier", judge)(torch.cat(images)).double())
    expected = (features[0] - features[1]).norm(dim=1).mean().item()
    found = rows(made)
    assert found["ours.0"]["derived"]["distance_to_retrained"]["value"] == pytest.approx(expected, rel=1e-5)
    assert found["retrained"]["derived"]["distance_to_retrained"]["value"] == 0.0


def test_a_run_that_ends_early_is_a_row_that_says_so(made: CompareConfig) -> None:
    failed = rows(made)["too-fast.0"]
    assert "no model is written" in failed["failed"] and failed["metrics"] == {} and failed["verdict"] is None
    assert not (Path(made.output) / "runs" / "too-fast.0" / "model").exists()
    text = (Path(made.output) / "comparison.md").read_text()
    assert table_of(text)["too fast"]["verdict"] == "2 ended early"
    assert f"too fast, seed 0, ended early: {failed['failed']}" in text
    assert "too fast, seed 1" in (Path(made.output).parent / "said.txt").read_text()


def test_what_is_there_is_not_made_again(made: CompareConfig) -> None:
    def stamps() -> dict[str, int]:
        made_once = [*Path(made.output).glob("rows/*.json"), *Path(made.output).glob("runs/*/model/model_index.json")]
        return {str(path): path.stat().st_mtime_ns for path in made_once}

    before = stamps()
    # a ResNet's settings are none of the small CNN's
    run_compare(dataclasses.replace(made, judge=dataclasses.replace(made.judge, resnet=ResNetConfig(width=8))))
    run_compare(made)
    assert stamps() == before
    # a failed run is tried again by its name alone
    run_compare(made, only=("too fast",))
    changed = {path for path, stamp in stamps().items() if stamp != before[path]}
    assert {Path(path).name for path in changed} == {"too-fast.0.json", "too-fast.1.json"}
    # one that is gone is measured again, against the references' samples that are kept
    before, contents, gone = stamps(), rows(made), Path(made.output) / "rows" / "ours.1.json"
    gone.unlink()
    run_compare(made)
    assert {path for path, stamp in stamps().items() if stamp != before[path]} == {str(gone)}
    for part in ("metrics", "relearning", "derived"):
        assert rows(made)["ours.1"][part] == contents["ours.1"][part]
    # where they are torn, or those of another judge, these are measured again as well, and are the same
    stored = gone.with_name("unscrubbed.safetensors")
    assert stored.stat().st_mode == gone.with_name("unscrubbed.json").stat().st_mode
    stored.write_bytes(b"torn")
    others = gone.with_name("retrained.safetensors")
    save_file(load_file(others), others, {"measured_by": "another"})
    gone.unlink()
    run_compare(made)
    changed = {path for path, stamp in stamps().items() if stamp != before[path]}
    assert {Path(path).stem for path in changed} == {"ours.1", "unscrubbed", "retrained"}
    for name in ("ours.1", "unscrubbed", "retrained"):
        assert rows(made)[name]["metrics"] == contents[name]["metrics"], name


def test_the_page_shows_every_model(made: CompareConfig) -> None:
    page = (Path(made.output) / "comparison.html").read_text()
    for name in ("unscrubbed", "retrained", "ours", "ours, eta=2.0", "finetune"):
        assert f"<figcaption>{name}</figcaption>" in page
    # a dot each for four models and the retrained one, and η's two values as a curve
    assert page.count("<circle") >= 5 and "ours: method.eta" in page
    with Image.open(Path(made.output) / "pictures" / "ours.0.png") as picture:
        # ten classes, four images of each, each 32 pixels wide
        assert picture.size == (4 * 33 - 1, 10 * 33 - 1)


def test_from_the_command_line(made: CompareConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "comparison.toml"
    file.write_text(dump_toml(made))
    assert main(["compare", str(file), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "ours, eta=2.0: 3 iterations of 2 gradients and 1 forward pass without one" in told
    assert "8 runs: 4 rows, 2 seeds each" in told
    assert main(["compare", str(file)]) == 0
    assert str(Path(made.output) / "comparison.html") in capsys.readouterr().out
    assert main(["compare", str(file), "--only", "theirs"]) == 2
    assert "--only theirs: no such row; there are finetune, ours," in capsys.readouterr().err
    assert main(["compare"]) == 2
    assert "name the comparison's file: erasediff compare FILE.toml" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none.toml")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_scrubs_can_be_a_sweeps(made: CompareConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from erasediff.launch.slurm.sweep import Sweep

    (tmp_path / "comparison.toml").write_text(dump_toml(made))
    sweep = tmp_path / "sweep.toml"
    assert main(["compare", str(tmp_path / "comparison.toml"), "--sweep", str(sweep)]) == 0
    assert f"erasediff launch sweep {sweep}" in capsys.readouterr().out
    read = Sweep.read([str(sweep)], "erasediff launch sweep")
    assert sorted(read.jobs) == sorted(slug for slug in rows(made) if slug not in ("unscrubbed", "retrained"))
    job = read.jobs["ours-eta=2.0.1"]
    assert job.config.output == str(Path(made.output) / "runs" / "ours-eta=2.0.1")
    assert (job.config.method.eta, job.config.train.seed) == (2.0, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"forget": "nowhere"}, "nowhere"),
        ({"judge": JudgeConfig(retrained="nowhere")}, "judge.retrained"),
        ({"judge": JudgeConfig(device="cpu", num_threads=2)}, "a comparison scrubs and measures alike"),
        ({"methods": {"esd": {"method": {"name": "esd", "target": "rl", "anchor": 99}}}}, "methods.esd: "),
    ],
)
def test_what_would_be_refused_is_refused_before_anything_runs(
    made: CompareConfig, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    config = dataclasses.replace(made, output=str(tmp_path / "out"), **changes)
    with pytest.raises(ConfigError if said != "nowhere" else Exception, match=said):
        run_compare(config)
    assert not (tmp_path / "out").exists()


def test_another_judge_measures_again_and_scrubs_nothing(made: CompareConfig, tmp_path: Path) -> None:
    copied = shutil.copytree(made.output, tmp_path / "out")
    made = dataclasses.replace(made, output=str(copied))

    def models() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in Path(made.output).glob("runs/*/model/model_index.json")}

    before, scrubbed = rows(made), models()
    judge = dataclasses.replace(made.judge, num_forget_samples_per_class=13, relearn=False)
    methods = {name: METHODS[name] for name in ("finetune", "too fast")}
    run_compare(dataclasses.replace(made, judge=judge, methods=methods))
    after = rows(made)
    assert models() == scrubbed
    counts = {slug: row["metrics"]["p_psi"]["n"] for slug, row in after.items() if not row["failed"]}
    assert {slug for slug, n in counts.items() if n == 13} == {"unscrubbed", "retrained", "finetune.0", "finetune.1"}
    assert after["too-fast.0"] == before["too-fast.0"]


def test_a_table_leaves_out_rows_of_other_settings(made: CompareConfig, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made.output, tmp_path / "out"))
    methods = METHODS | {"ours": {}, "too fast": {"optimizer": {"learning_rate": 1e8, "name": "sgd"}}}
    train = made.train | {"max_train_steps": 4}
    (tmp_path / "c.toml").write_text(
        dump_toml(dataclasses.replace(made, output=str(out), methods=methods, train=train))
    )
    assert main(["compare", str(tmp_path / "c.toml"), "--table-only"]) == 0
    text = (out / "comparison.md").read_text()
    seeds = {name: line["seeds"] for name, line in table_of(text).items()}
    assert seeds == {"unscrubbed": "1", "retrained": "1", "ours": "0", "finetune": "2", "too fast": "0"}
    for name in ("ours", "too fast"):
        assert f"- {name}: 2 of other settings left out; run the comparison again." in text
    assert "ended early" not in text and "finetune: 2" not in text


def test_a_judge_of_other_layers_is_trained_anew(made: CompareConfig, classifier: Path, tmp_path: Path) -> None:
    resnet = ResNetConfig(blocks=(1,), width=8, num_epochs=1, flip=False)
    judge = dataclasses.replace(made.judge, classifier=None, architecture="resnet", resnet=resnet)
    judge = dataclasses.replace(judge, retrained=None, relearn=False, thresholds=("accuracy_remaining >= 0",))
    methods = {"finetune": METHODS["finetune"]}
    config = dataclasses.replace(made, output=str(tmp_path / "out"), methods=methods, seeds=(0,), judge=judge)
    kept = tmp_path / "out" / "classifier.safetensors"
    kept.parent.mkdir()
    shutil.copyfile(classifier, kept)
    run_compare(config)
    assert load_classifier(kept).card.resnet == resnet
    assert all("frechet_distance[digits-resnet4]" in row["metrics"] for row in rows(config).values())


def test_other_content_behind_a_judges_path_is_another_judge(made: CompareConfig, tmp_path: Path) -> None:
    retrained = shutil.copytree(str(made.judge.retrained), tmp_path / "retrained")
    methods = {"finetune": METHODS["finetune"]}
    judge = dataclasses.replace(made.judge, retrained=str(retrained), relearn=False)
    config = dataclasses.replace(made, output=str(tmp_path / "out"), methods=methods, seeds=(0,), judge=judge)
    run_compare(config)
    first = rows(config)
    note = f"what '{retrained}' was trained on is not on record"
    assert note in (tmp_path / "out" / "comparison.md").read_text() and note in first["retrained"]["notes"][0]
    run_compare(config)
    assert rows(config) == first
    shutil.rmtree(retrained)
    tiny.make_pipeline(retrained, seed=6)
    run_compare(config)
    assert all(rows(config)[slug]["measured_by"] != row["measured_by"] for slug, row in first.items())
