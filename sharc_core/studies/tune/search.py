"""Which settings the trials of a cell have. The first trial has the cell's own settings."""

import importlib.util
import itertools
import math
import random
from collections.abc import Callable, Iterator

from sharc_core.common.errors import UserError
from sharc_core.common.seeds import derived_seed
from sharc_core.grid.cell import Cell
from sharc_core.grid.tuned import Value, Values, value_of, with_values
from sharc_core.studies.tune.settings import Options, Range, Search, Space, TuneSettings

ATTEMPTS = 1000  # draws in search of a combination that was not tried yet
NO_OPTUNA = "tpe needs Optuna: pip install optuna, or use sampler random"
Score = Callable[[Values], float]  # the value to maximise; NaN for a trial that failed


def own_values(cell: Cell, space: Space) -> Values:
    """Return the cell's own values of the settings in a space."""
    return {name: value_of(cell, name) for name in space}


def run_trials(cell: Cell, tune: TuneSettings, score: Score) -> list[tuple[Values, float]]:
    """Call `score` for each trial; return the settings and scores in order.

    The random draws of a setting are the same for all cells. Raises UserError if Optuna is needed and not
    installed.
    """
    space = tune.space(cell)
    own = own_values(cell, space)
    if tune.sampler == "tpe":
        seed = derived_seed(tune.seed, "tune", cell.method)
        return _with_optuna(own, space, tune.trials, seed, score)
    others = all_values(space) if _fits(tune, space) else drawn(space, tune.seed)
    trials = [own, *itertools.islice((values for values in others if values != own), tune.trials - 1)]
    return [(values, score(values)) for values in trials]


def check_search(tune: Search, cell: Cell) -> None:
    """Raise UserError for a value that a cell cannot have, and for what check_extent refuses."""
    space = tune.space(cell)
    check_extent(tune, space)
    for name, options in space.items():
        for value in [options.low, options.high] if isinstance(options, Range) else options:
            with_values(cell, {name: value})


def check_sampler(tune: Search, block: str) -> None:
    """Raise UserError if the sampler is Optuna's and Optuna is not installed."""
    if tune.sampler == "tpe" and importlib.util.find_spec("optuna") is None:
        raise UserError(f"config: {block}.sampler: {NO_OPTUNA}")


def check_extent(tune: Search, space: Space) -> None:
    """Raise UserError for a grid search that does not fit the number of trials, or that has a range."""
    if tune.sampler != "grid":
        return
    count = tune.combinations(space)
    if count is None:
        name = next(name for name, options in space.items() if isinstance(options, Range))
        raise UserError(f"sampler grid needs a list of values for {name}: give one, or use sampler random")
    if count >= tune.trials:
        raise UserError(
            f"sampler grid has {count} combinations of {', '.join(space)} and one trial of the grid's own "
            f"settings, but trials is {tune.trials}: set trials to {count + 1}, or use sampler random"
        )


def _fits(tune: Search, space: Space) -> bool:
    count = tune.combinations(space)
    return count is not None and count < tune.trials


def all_values(space: Space) -> Iterator[Values]:
    """Yield all combinations of a space of lists, the last setting fastest."""
    lists = [options for options in space.values() if isinstance(options, list)]
    for combination in itertools.product(*lists):
        yield dict(zip(space, combination, strict=True))


def drawn(space: Space, seed: int) -> Iterator[Values]:
    """Yield different combinations drawn independently and uniformly (in the logarithm where asked for).

    Each setting has its own generator, so that a further setting does not change the draws of the others.
    """
    sources = {name: random.Random(derived_seed(seed, "tune", name)) for name in space}
    seen = set()
    for _ in range(ATTEMPTS):
        values = {name: _draw(options, sources[name]) for name, options in space.items()}
        key = tuple(values.values())
        if key not in seen:
            seen.add(key)
            yield values


def _draw(options: Options, source: random.Random) -> Value:
    if isinstance(options, list):
        return options[source.randrange(len(options))]
    low, high = options.low, options.high
    if options.is_integer:
        low, high = low - 0.5, high + 0.5  # so that both ends are as likely as the others
    if options.log:
        low = max(low, options.low / 2)
        value = math.exp(source.uniform(math.log(low), math.log(high)))
    else:
        value = source.uniform(low, high)
    if options.is_integer:
        return min(max(round(value), int(options.low)), int(options.high))
    return min(max(value, options.low), options.high)


def _with_optuna(
    own: Values, space: Space, trials: int, seed: int, score: Score
) -> list[tuple[Values, float]]:
    try:
        import optuna  # type: ignore[import-not-found]  # an optional extra
    except ImportError:
        raise UserError(f"tune.sampler: {NO_OPTUNA}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed % 2**32))
    results = [(own, score(own))]
    for _ in range(trials - 1):
        trial = study.ask()
        values = {name: _suggested(trial, name, options) for name, options in space.items()}
        value = score(values)
        results.append((values, value))
        failed = math.isnan(value)
        state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
        study.tell(trial, None if failed else value, state=state)
    return results


def _suggested(trial, name: str, options: Options) -> Value:
    if isinstance(options, list):
        return trial.suggest_categorical(name, options)
    if options.is_integer:
        return trial.suggest_int(name, int(options.low), int(options.high), log=options.log)
    return trial.suggest_float(name, options.low, options.high, log=options.log)
