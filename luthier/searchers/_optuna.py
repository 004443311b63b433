"""Optuna's samplers, asked for one trial at a time about a study that is built from what was tried."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.searchers import Tried
from luthier.space import Dimension

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


def ask(
    sampler: BaseSampler, trials: Sequence[Tried], space: Mapping[str, Dimension], higher_is_better: bool
) -> dict[str, Any]:
    """What a sampler proposes after these trials."""
    study = study_of(trials, space, higher_is_better, sampler)
    proposed = study.ask(fixed_distributions=distributions(space)).params
    return {
        path: each.choices[proposed[path]] if each.choices is not None else proposed[path]
        for path, each in space.items()
    }


def study_of(
    trials: Sequence[Tried],
    space: Mapping[str, Dimension],
    higher_is_better: bool,
    sampler: BaseSampler | None = None,
) -> Study:
    """The trials as a study of Optuna's, in memory."""
    import optuna
    from optuna.trial import TrialState, create_trial

    states = {
        "running": TrialState.RUNNING,
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every trial that is added
    study = optuna.create_study(direction="maximize" if higher_is_better else "minimize", sampler=sampler)
    known = distributions(space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for trial in trials:
            params = {
                path: each.choices.index(trial.params[path]) if each.choices is not None else trial.params[path]
                for path, each in space.items()
            }
            study.add_trial(
                create_trial(
                    state=states[trial.state],
                    value=trial.value if trial.state == "complete" else None,
                    params=params,
                    distributions=known,
                    intermediate_values=dict(trial.rungs),
                )
            )
    return study


def distributions(space: Mapping[str, Dimension]) -> dict[str, BaseDistribution]:
    """The space in Optuna's words; choices enter by their place, since they may be lists and blocks."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for path, each in space.items():
        if each.choices is not None:
            found[path] = CategoricalDistribution(range(len(each.choices)))
        elif isinstance(each.low, int) and isinstance(each.high, int):
            found[path] = IntDistribution(each.low, each.high, log=each.log, step=int(each.step or 1))
        else:
            assert each.low is not None
            assert each.high is not None
            found[path] = FloatDistribution(float(each.low), float(each.high), log=each.log, step=each.step)
    return found


def importance(
    trials: Sequence[Tried], space: Mapping[str, Dimension], higher_is_better: bool
) -> dict[str, float] | None:
    """Share of the variation of the finished trials' values that each path explains by itself and with others, by fANOVA
    (Hutter, Hoos, Leyton-Brown 2014, as Optuna computes it); None where too few trials differ."""
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    finished = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    if len(finished) < 4 or len({trial.value for trial in finished}) < 2:
        return None
    study = study_of(finished, space, higher_is_better)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {path: float(found.get(path, 0.0)) for path in space}
