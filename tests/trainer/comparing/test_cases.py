"""Which runs a comparison is made of: names, settings, budgets, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from erasediff.trainer.comparing.cases import Pace, cases_of
from erasediff.trainer.config import CompareConfig
from erasediff.trainer.config.toml import decode
from erasediff.trainer.errors import ConfigError

METHODS: dict[str, Any] = {
    "ours": {},
    "towards noise": {"method": {"target": "noise"}},
    "moo, slow": {"method": {"name": "moo"}, "optimizer": {"learning_rate": 1e-6}},
    "first order": {"method": {"gradient_of_g": "first_order", "num_inner_steps": 3}},
}


def config(**changes: Any) -> CompareConfig:
    values = {"output": "out", "model": {"path": "base"}, "data": "data", "forget": "f", "remain": "r"}
    return decode(CompareConfig, values | {"methods": METHODS} | changes, "file.toml")


def steps(made: CompareConfig) -> dict[str, int]:
    return {case.name: case.config.train.max_train_steps for case in cases_of(made)}


def test_every_methods_first_seed_comes_first() -> None:
    found = cases_of(config(seeds=[4, 7]))
    assert [(case.name, case.seed, case.config.train.seed) for case in found] == [
        (name, seed, seed) for seed in (4, 7) for name in METHODS
    ]
    assert [case.slug for case in found[:3]] == ["ours.4", "towards-noise.4", "moo-slow.4"]
    assert found[4].config.output == "out/runs/ours.7"


def test_a_methods_own_defaults_hold_under_what_is_shared_and_what_it_says() -> None:
    found = {case.name: case.config for case in cases_of(config(train={"train_batch_size": 8}))}
    # noise has its own length and rate
    assert (found["towards noise"].train.max_train_steps, found["ours"].train.max_train_steps) == (150, 100)
    assert found["towards noise"].optimizer.learning_rate == 3e-4
    assert {one.train.train_batch_size for one in found.values()} == {8}
    shared = {case.name: case.config for case in cases_of(config(optimizer={"learning_rate": 5e-5}))}
    assert shared["towards noise"].optimizer.learning_rate == 5e-5
    assert shared["moo, slow"].optimizer.learning_rate == 1e-6
    assert (shared["moo, slow"].method.name, shared["ours"].method.name) == ("moo", "erasediff")


def test_a_budget_of_gradients_buys_fewer_steps_of_a_dearer_method() -> None:
    # two a step; first order with K = 3 takes ∇L_r, ∇L_f at θ, φ¹, φ², φ³
    assert steps(config(budget={"gradients": 103})) == {
        "ours": 51,
        "towards noise": 51,
        "moo, slow": 51,
        "first order": 20,
    }
    assert set(steps(config(budget={"steps": 9})).values()) == {9}
    with pytest.raises(ConfigError, match=r"methods.first order: budget.gradients = 4: it takes 0 before .* and 5 for"):
        cases_of(config(budget={"gradients": 4}))


def test_what_a_method_takes_before_its_first_step_is_in_the_budget() -> None:
    methods: dict[str, Any] = {
        "salun": {"method": {"name": "salun", "num_mask_batches": 30}},
        # one gradient a sample and level: of a batch as many as levels
        "amnesia": {"method": {"name": "selective_amnesia", "num_fisher_batches": 2, "num_fisher_levels": 10}},
        "blindspot": {"method": {"name": "blindspot", "num_proxy_steps": 98}},
    }
    found = steps(config(methods=methods, budget={"gradients": 100}))
    assert found == {"salun": 35, "amnesia": 40, "blindspot": 1}
    with pytest.raises(ConfigError, match=r"methods.blindspot: budget.gradients = 99: it takes 98 before"):
        cases_of(config(methods=methods, budget={"gradients": 99}))


def test_a_budget_of_seconds_goes_by_the_pace() -> None:
    paces = dict.fromkeys(METHODS, Pace(0.5, 0.0)) | {"ours": Pace(0.2, 2.0)}
    found = {c.name: c.config.train.max_train_steps for c in cases_of(config(budget={"seconds": 10.1}), paces)}
    assert found == {"ours": 40, "towards noise": 20, "moo, slow": 20, "first order": 20}
    # what these seconds leave no step is not run, and keeps none of the others from it
    short = {case.name: case for case in cases_of(config(budget={"seconds": 2.1}), paces)}
    assert [name for name, case in short.items() if case.failed] == ["ours"]
    said = "budget.seconds = 2.1 leaves it no step: it takes 2 before its first and 0.2 for each"
    assert short["ours"].failed == said and short["first order"].config.train.max_train_steps == 4
    # those that nobody has timed yet
    assert set(steps(config(budget={"seconds": 10.1})).values()) == {1}


def test_one_key_varies_at_a_time_and_what_a_method_is_anyway_is_not_run_twice() -> None:
    made = config(methods={"ours": {}}, vary={"method.eta": [0.1, 0.5], "method.lambda_cap": ["none", 3.0]})
    found = {case.name: case for case in cases_of(made)}
    # η = 0.5 and the cap 3 are the defaults
    assert [*found] == ["ours", "ours, eta=0.1", "ours, lambda_cap=none"]
    assert {case.method for case in found.values()} == {"ours"}
    eta, cap = (found[name].config.method for name in ("ours, eta=0.1", "ours, lambda_cap=none"))
    assert (vars(eta)["eta"], vars(eta)["lambda_cap"]) == (0.1, 3.0)
    assert (vars(cap)["eta"], vars(cap)["lambda_cap"]) == (0.5, None)
    assert found["ours, eta=0.1"].varied == {"method.eta": 0.1}
    # nor in seconds, of which one that is left out has no pace
    seconds = dataclasses.replace(made, budget=dataclasses.replace(made.budget, seconds=10.0))
    paces = {name: Pace(0.1 + i, 0.0) for i, name in enumerate(found)}
    assert [case.name for case in cases_of(seconds)] == [*found] == [case.name for case in cases_of(seconds, paces)]


def test_a_method_varies_by_itself() -> None:
    own = {"ours": {"vary": {"method.eta": [0.1]}}, "moo": {"method": {"name": "moo"}}}
    assert [case.name for case in cases_of(config(methods=own))] == ["ours", "ours, eta=0.1", "moo"]


def test_a_grid_holds_every_combination() -> None:
    made = config(methods={"ours": {}}, grid={"method.eta": [0.1, 0.2], "train.max_train_steps": [5, 6]})
    found = [(vars(c.config.method)["eta"], c.config.train.max_train_steps) for c in cases_of(made)]
    assert found == [(0.1, 5), (0.1, 6), (0.2, 5), (0.2, 6)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": {}}, "name one at least"),
        ({"methods": {"retrained": {}}}, "methods.retrained: give it another name"),
        ({"methods": {"ours": {"judge": {}}}}, "methods.ours.judge: a method has method, train"),
        ({"methods": {"ours": {"method": {"name": "mo"}}}}, "methods.ours: method.name = 'mo'; known: "),
        ({"methods": {"ours": {"method": {"etta": 1.0}}}}, "methods.ours: unknown key method.etta; did you mean eta?"),
        ({"methods": {"ours": {"vary": {"method.eta": 1.0}}}}, "methods.ours.vary: lists of values"),
        ({"methods": {"a b": {}, "a, b": {}}}, "'a b' and 'a, b' would share the folder a-b.0"),
        ({"train": {"seed": 3}}, "train.seed: name them in seeds"),
        ({"seeds": [1, 1]}, "each once"),
        ({"budget": {"steps": 3, "seconds": 4.0}}, "budget.steps and budget.seconds are two budgets"),
        ({"vary": {"method.eta": []}}, "vary has no value for method.eta"),
        ({"vary": {"method.eta": [1.0]}, "grid": {"method.xi": [1.0]}}, "give one of them"),
        ({"judge": {"retrained": "record.json"}}, "is a record, which has no samples"),
        ({"vary": {"method.eta": [-1.0]}}, "methods.ours, eta=-1.0: method.eta = -1.0: at least 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        cases_of(config(**changes))
    assert said in str(error.value) and "\n" not in str(error.value)
