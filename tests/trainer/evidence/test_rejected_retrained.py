"""A limit that rejects the retrained model itself."""

from __future__ import annotations

import pytest
from erasediff.trainer.config.thresholds import parse_threshold
from erasediff.trainer.evidence.metrics import Measurement
from erasediff.trainer.evidence.thresholds import hold, overall, said, shows_forgetting
from evidence_cases import of_classes


class TestALimitThatRejectsTheRetrainedModel:
    """Of the digit 8: asked for it, a retrained model makes what a judge calls an 8 with .126, and the limit is .1."""

    @staticmethod
    def models(scrubbed: float, retrained: float = 0.126, n: int = 5000) -> dict[str, dict[str, Measurement]]:
        found = {"unscrubbed": 0.9, "scrubbed": scrubbed, "retrained": retrained}
        return {name: {"p_psi": of_classes(value, n=n)} for name, value in found.items()}

    @pytest.mark.parametrize("metric", ["p_psi", "p_psi_worst_class"])
    @pytest.mark.parametrize(("scrubbed", "verdict"), [(0.13, "shown"), (0.175, "not shown"), (0.18, "failed")])
    def test_of_forgetting_the_retrained_models_own_figure_is_the_limit(
        self, metric: str, scrubbed: float, verdict: str
    ) -> None:
        models = self.models(scrubbed)
        (held,) = hold([parse_threshold(f"{metric} <= 0.1")], models)
        assert held.limit == pytest.approx(0.176) and held.rejects_retrained
        assert held.threshold == f"{metric} <= 0.1" and held.passed is (verdict != "failed")
        assert overall([held], models) == verdict
        assert ", the limit 0.176: by the retrained model, which does not hold it as it was given" in said(held)
        # its doubt is that of the comparison
        (beside,) = hold([parse_threshold(f"{metric} <= retrained + 0.05")], models)
        assert held.margin_low == pytest.approx(beside.margin_low)

    def test_a_limit_that_it_holds_stays(self) -> None:
        models = self.models(0.13, retrained=0.099)
        (held,) = hold([parse_threshold("p_psi <= 0.1")], models)
        assert held.limit == 0.1 and not held.rejects_retrained and overall([held], models) == "failed"

    @pytest.mark.parametrize("metric", ["p_psi", "p_psi_worst_class"])
    def test_a_limit_that_it_may_hold_stays_too(self, metric: str) -> None:
        """Of .1001, and of .126 among few samples, it is not shown that the limit rejects it: .1 is no .15."""
        for retrained, n in ((0.1001, 5000), (0.126, 40)):
            models = self.models(0.13, retrained=retrained, n=n)
            (held,) = hold([parse_threshold(f"{metric} <= 0.1")], models)
            assert held.limit == 0.1 and not held.rejects_retrained and overall([held], models) == "failed"
            # and it is not published in the scrubbed one's place
            (own,) = hold([parse_threshold(f"{metric} <= 0.1")], models, "retrained")
            assert own.limit == 0.1 and not own.passed
        # the whole interval beyond it: Wilson's of .126 of 5,000 begins at .117
        (own,) = hold([parse_threshold(f"{metric} <= 0.1")], self.models(0.13), "retrained")
        assert own.limit == pytest.approx(0.176) and own.shown

    def test_a_limit_that_it_meets_to_the_bit_stays_too(self) -> None:
        models = self.models(0.13) | {"retrained": {"p_psi": Measurement(0.1, 5000)}}
        (held,) = hold([parse_threshold("p_psi <= 0.1")], models)
        assert held.limit == 0.1 and not held.rejects_retrained

    def test_of_the_rest_it_is_said_and_the_limit_stays(self) -> None:
        """A poor retrained model is no licence to harm."""
        figures = {"unscrubbed": 0.99, "scrubbed": 0.6, "retrained": 0.55}
        models = {name: {"accuracy_remaining": of_classes(value)} for name, value in figures.items()}
        (held,) = hold([parse_threshold("accuracy_remaining >= unscrubbed - 0.02")], models)
        assert held.rejects_retrained and not held.passed and held.limit == pytest.approx(0.97)
        assert said(held) == "it is 0.6, the limit 0.97, which the retrained model does not hold either"

    def test_of_a_worst_class_only_the_rejected_class_has_another_limit(self) -> None:
        models = self.models(0.0)
        models["unscrubbed"] = {"p_psi": of_classes(0.9, 0.9)}
        models["retrained"] = {"p_psi": of_classes(0.126, 0.01, n=5000)}
        models["scrubbed"] = {"p_psi": of_classes(0.13, 0.13, n=5000)}
        (held,) = hold([parse_threshold("p_psi_worst_class <= 0.1")], models)
        assert (held.of_class, held.limit, held.passed, held.rejects_retrained) == ("c1", 0.1, False, False)

    def test_what_is_no_share_has_five_per_cent_to_spare(self) -> None:
        name = "nearest_to_forget[digits-cnn]"
        models = {
            model: {name: Measurement(value, 50, low=value - 0.01, high=value + 0.01)}
            for model, value in (("unscrubbed", 5.0), ("scrubbed", 8.6), ("retrained", 9.0))
        }
        (held,) = hold([parse_threshold(f"{name} >= 10")], models)
        assert held.limit == pytest.approx(8.55) and held.passed and shows_forgetting(held, models)

    def test_beside_itself_it_is_beyond_doubt(self) -> None:
        """Thresholds are held against the retrained model, too, before it is published."""
        models = self.models(0.5, n=10)
        models["retrained"]["accuracy_remaining"] = models["unscrubbed"]["accuracy_remaining"] = of_classes(0.9, n=40)
        texts = ["p_psi_worst_class <= retrained + 0.05", "accuracy_remaining >= unscrubbed - 0.05"]
        mine, rest = hold([parse_threshold(text) for text in texts], models, "retrained")
        assert mine.shown and mine.value == 0.126 and mine.margin == pytest.approx(0.05)
        assert overall([mine], models) == "shown" and overall(hold([parse_threshold(texts[0])], models), models) == (
            "failed"
        )
        assert rest.passed
