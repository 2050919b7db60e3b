"""`python -m sharc_core`: train one cell, check a grid file, verify finished results, export features."""

import argparse
import sys
from typing import TYPE_CHECKING, get_args

from sharc_core.common.errors import UserError

if TYPE_CHECKING:
    from sharc_core.grid.models import Grid


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sharc_core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train one cell and print its accuracy matrix")
    run.add_argument("--config", default="config.yaml", help="grid file (default: %(default)s)")
    run.add_argument("--dataset", required=True)
    run.add_argument("--method", required=True)
    run.add_argument("--variant", default="plain", help="plain or sharc (default: %(default)s)")
    run.add_argument("--buffer", type=int, help="slots (default: the grid's first)")
    run.add_argument(
        "--scenario", default="class_il", help="task_il, class_il or domain_il (default: %(default)s)"
    )
    run.add_argument("--seed", type=int, nargs="+", default=[0], help="one or more (default: 0)")
    run.add_argument("--backbone", help="name of one of the grid's backbones (default: its first)")
    run.add_argument("--theta", type=float, help="share of the channels dropped (default: the grid's first)")
    run.add_argument("--associative-memory", help="kind of associative memory (default: the grid's first)")
    names = "paper, code, mammoth, paper+<rule> or code+batch_norm"
    run.add_argument("--protocol", help=f"{names} (default: the grid's first)")
    check = commands.add_parser("check", help="check a grid file, its data, weights and device")
    check.add_argument("--config", default="config.yaml")
    verify = commands.add_parser("verify", help="check results: every checksum, tables against matrices")
    verify.add_argument("results", nargs="?", default="results", help="a results_dir (default: %(default)s)")
    verify.add_argument(
        "--data",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="also verify data, weights and features, in FOLDER (default: the grid's data_dir)",
    )
    features = commands.add_parser("features", help="export the features of a data set")
    export = features.add_subparsers(dest="action", required=True).add_parser(
        "export", help="write features as files that `source: features` reads"
    )
    export.add_argument("--config", default="config.yaml", help="grid file (default: %(default)s)")
    export.add_argument("--dataset", required=True)
    export.add_argument("--backbone", help="name of one of the grid's backbones (default: its first)")
    export.add_argument("--out", required=True, help="a new .npz or .safetensors file, or a new folder")
    export.add_argument("--pooled", action="store_true", help="vectors (N, K) instead of maps (N, K, h, w)")
    options = parser.parse_args(arguments)
    try:
        chosen = {"run": _run, "check": _check, "verify": _verify, "features": _export}
        return chosen[options.command](options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _check(options: argparse.Namespace) -> int:
    from sharc_core.grid.loading import load_config
    from sharc_core.grid.unroll import cells
    from sharc_core.stages.layout import Layout
    from sharc_core.stages.preflight import check_inputs, extraction_plan
    from sharc_core.studies.registered import configured_jobs, trained_cells
    from sharc_core.verification.comparison import Comparison

    grid = load_config(options.config)
    check_inputs(grid, progress=_say, of_studies=trained_cells)
    measurements = configured_jobs(grid)
    layout = Layout(grid)
    comparison = Comparison(layout, {str(layout.cell(cell)): cell for cell in cells(grid)})
    runs = sum(len(cell.seeds) for cell in comparison.cells.values())
    print(f"{options.config}: fine; {len(comparison.cells)} cells, {runs} training runs")
    for name, count in measurements.items():
        print(f"study {name}: {count} job{'' if count == 1 else 's'}")
    left = sum(len(comparison.standing(path).missing) for path in comparison.cells)
    if left < runs:
        print(f"{grid.results_dir} has {runs - left} of these runs, {left} are to be trained")
    for line in [*comparison.notes(), *extraction_plan(grid, comparison.needed())]:
        print(line)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from sharc_core.verification.verify import recorded_data_dir, verify

    data_dir = recorded_data_dir(options.results) if options.data == "" else options.data
    verdict = verify(options.results, data_dir)
    for line in [*verdict.problems.values(), *verdict.notes]:
        print(line)
    problems = len(verdict.problems)
    if problems:
        print(f"{options.results}: {problems} {'problem' if problems == 1 else 'problems'}")
    else:
        print(f"{options.results}: fine; {'; '.join(verdict.checked)}")
    return int(bool(problems))


def _export(options: argparse.Namespace) -> int:
    from pathlib import Path

    from sharc_core.grid.loading import load_config
    from sharc_core.stages.export import export_features
    from sharc_core.stages.preflight import check_inputs

    grid, out = load_config(options.config), Path(options.out)
    _check_names(grid, options.dataset, options.backbone)
    check_inputs(grid, progress=_say)
    written = export_features(grid, options.dataset, out, options.backbone, options.pooled, progress=_say)
    shape = written.train_pooled.shape[1:] if options.pooled else written.train_maps.shape[1:]
    samples = len(written.train_labels), len(written.test_labels)
    print(f"{out}: {samples[0]:,} train and {samples[1]:,} test samples, each {' x '.join(map(str, shape))}")
    return 0


def _run(options: argparse.Namespace) -> int:
    import torch
    from tabulate import tabulate

    from sharc_core.grid.loading import load_config
    from sharc_core.grid.unroll import cells
    from sharc_core.learning.learner import run_cell
    from sharc_core.stages.build import ensure_features
    from sharc_core.stages.preflight import check_inputs

    _check_options(options)
    grid = one_run(load_config(options.config), options)
    check_inputs(grid, progress=_say)
    (cell,) = cells(grid)
    features = ensure_features(grid, cell.dataset, cell.backbone, progress=_say)
    torch.set_num_threads(1)
    document = run_cell(features, cell, progress=_say)
    for r, seed in enumerate(cell.seeds):
        print(f"\n{cell.dataset} {cell.id} {options.scenario}, seed {seed}: accuracy in %")
        rows = document["matrix"][options.scenario][r]
        header = ["after task"] + [f"task {j + 1}" for j in range(len(rows))]
        body = [[i + 1, *row] for i, row in enumerate(rows)]
        print(tabulate(body, header, floatfmt=".2f", missingval="-"))
        print(f"ACC {sum(rows[-1]) / len(rows):.2f} %")
    costs = {name: values[0] for name, values in document["costs"].items()}
    parts = [f"learner {costs['learner_bytes']:,} bytes", f"{costs['train_flops']:,} operations"]
    parts += [f"{costs['backbone_passes']:,} backbone passes", f"{costs['train_seconds']:.2f} s per seed"]
    if cell.buffer is not None:
        parts.insert(0, f"{costs['samples_stored']} samples, {costs['episodic_bytes']:,} bytes")
    if cell.variant == "sharc":
        parts.insert(1, f"associative memory {costs['associative_bytes']:,} bytes")
    print(f"\n{', '.join(parts)}")
    return 0


def _check_options(choice: argparse.Namespace) -> None:
    """Raise UserError for an option that would have no effect on the run."""
    from sharc_core.grid.axes import OF_SHARC
    from sharc_core.methods import METHODS

    if choice.method in METHODS.names() and not METHODS.get(choice.method).uses_memory:
        if choice.variant == "sharc":
            raise UserError(
                f"--variant sharc: {choice.method} has no memory, so SHARC cannot change it: "
                "use --variant plain or another --method"
            )
        if choice.buffer is not None:
            raise UserError(f"--buffer {choice.buffer}: {choice.method} has no memory: leave --buffer out")
    _check_protocol(choice)
    if choice.variant == "plain":
        for name in OF_SHARC:
            if getattr(choice, name, None) is not None:
                option = f"--{name.replace('_', '-')}"
                raise UserError(
                    f"{option} {getattr(choice, name)}: --variant plain does not use it: "
                    f"add --variant sharc or leave {option} out"
                )


def _check_protocol(choice: argparse.Namespace) -> None:
    from sharc_core.grid.protocol import BATCH_NORM, PAPER, concerning, rules_of
    from sharc_core.methods import METHODS

    if choice.protocol is None or not rules_of(choice.protocol) or choice.method not in METHODS.names():
        return
    uses_memory = METHODS.get(choice.method).uses_memory
    if BATCH_NORM in rules_of(choice.protocol):
        return
    if not uses_memory or concerning(choice.protocol, choice.method, choice.variant) == PAPER:
        raise UserError(
            f"--protocol {choice.protocol}: it changes nothing in {choice.method} {choice.variant}: "
            "leave --protocol out"
        )


def one_run(grid: "Grid", choice: argparse.Namespace) -> "Grid":
    """Return the grid narrowed to one cell. Raises UserError for a choice that is not valid.

    choice: dataset, method, variant, scenario, seed (a list) and, or None, buffer, backbone, theta,
    associative_memory, protocol.
    """
    from sharc_core.grid.cell import Scenario
    from sharc_core.grid.loading import load_grid
    from sharc_core.grid.models import listed

    _check_names(grid, choice.dataset, choice.backbone)
    values = grid.without_studies()
    theta = grid.sharc.theta_of(choice.scenario) if choice.theta is None else choice.theta
    if theta is None and choice.variant == "sharc" and choice.scenario in get_args(Scenario):
        raise UserError(
            f"the grid's sharc.theta has no value for scenario {choice.scenario}: add one or give --theta"
        )
    memory = choice.associative_memory
    values["sharc"] |= {
        "theta": {} if theta is None else {choice.scenario: listed(theta)[0]},
        "associative_memory": listed(grid.sharc.associative_memory)[0] if memory is None else memory,
        "saliency": listed(grid.sharc.saliency)[0],
    }
    backbones = [b for b in grid.all_backbones if choice.backbone in (None, b.path_name)]
    has_features = grid.datasets[choice.dataset].has_features
    values |= {
        "datasets": {choice.dataset: grid.datasets[choice.dataset].model_dump()},
        "backbone": None if has_features else backbones[0].model_dump(),
        "methods": [choice.method],
        "variants": [choice.variant],
        "buffers": [grid.buffers[0] if choice.buffer is None else choice.buffer],
        "scenarios": [choice.scenario],
        "seeds": choice.seed,
        "protocol": grid.protocol[0] if choice.protocol is None else choice.protocol,
        "budget": listed(grid.budget)[0].model_dump(),
        "storage": listed(grid.storage)[0],
    }
    return load_grid(values)


def _check_names(grid: "Grid", dataset: str, backbone: str | None) -> None:
    """Raise UserError for a data set, or a backbone of the data set, that the grid does not have."""
    from sharc_core.common.registry import nearest

    backbones = [one.path_name for name, one in grid.all_pairs if name == dataset]
    for kind, owner, name, known in (
        ("data set", "the grid", dataset, list(grid.datasets)),
        ("backbone", dataset, backbone, backbones),
    ):
        if name is not None and name not in known:
            raise UserError(f"unknown {kind} {name!r}{nearest(name, known)}; {owner} has: {', '.join(known)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
