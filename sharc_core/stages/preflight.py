"""Check data, weights, devices, folders, disk space and budgets before any job runs.

A check that passed before needs no torch (known_networks). Modules that do are imported where they are used.
"""

import contextlib
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path

from sharc_core.backbones import BackboneConfig
from sharc_core.common.device import check_device
from sharc_core.common.errors import Missing, UserError, shown
from sharc_core.common.files import digest, left_bytes, read_json
from sharc_core.common.settings import fit_for_snakemake
from sharc_core.datasets import Source
from sharc_core.datasets.base import Progress
from sharc_core.datasets.feature_source import FeatureSource
from sharc_core.features.cache import cache_bytes, check_space, free_bytes, splits_of
from sharc_core.features.drifting.part import Part
from sharc_core.features.encode import encoded_bytes
from sharc_core.features.folders import EncodedFolder, FeaturesFolder
from sharc_core.features.images import prepared_image_shape
from sharc_core.grid.cell import Cell
from sharc_core.grid.drifting_parts import extent
from sharc_core.grid.feature_folders import codec_of, stores_pixels
from sharc_core.grid.models import Grid
from sharc_core.grid.plug_in_settings import pretrain_source
from sharc_core.grid.unroll import cells, extracted_views
from sharc_core.provenance.code_hashes import code_hash
from sharc_core.stages.known_networks import KnownNetwork, known
from sharc_core.stages.layout import Layout
from sharc_core.streams.settings import class_names
from sharc_core.streams.stream import split_classes

Shape = tuple[int, int, int]
Shapes = dict[tuple[str, str], Shape]  # of the maps, by data set and backbone
ROOM = 1_000_000  # bytes of the smallest results; Snakemake itself fails with less free space


def check_inputs(
    grid: Grid,
    progress: Progress = None,
    planning: bool = False,
    elsewhere: bool = False,
    of_studies: Callable[[Grid], Mapping[str, Sequence[Cell]]] | None = None,
) -> None:
    """Check data, weights, devices, folders and budgets of a grid. Raises UserError for the first problem.

    progress: called with a line while much data is read, and with notes and warnings. planning: missing data
    that the user provides and a missing GPU are warnings, not errors. elsewhere: jobs run on other machines,
    so devices are not checked here. of_studies: returns further cells whose budgets are checked, by study.
    """
    if not elsewhere:
        _check_devices(grid, progress, planning)
    if grid.mirror is not None and not os.path.isdir(grid.mirror):
        raise UserError(f"config: mirror: {grid.mirror} is not a folder; create it or leave mirror out")
    for key, folder in (("data_dir", grid.data_dir), ("results_dir", grid.results_dir)):
        _check_folder(key, Path(folder))
    sources, trained = {name: grid.source(name) for name in grid.datasets}, cells(grid)
    for name, dataset in grid.datasets.items():
        source = sources[name]
        with _prefixed(f"datasets.{name}"):
            _check_source(source, progress, planning)
            of_dataset = [cell for cell in trained if cell.dataset == name]
            _check_sizes(of_dataset, split_classes(source.class_names(), dataset.stream.of_run(0)))
    shapes: dict[str, Shape] = {}
    with _prefixed("backbone"):
        _check_used(grid)
    for backbone in grid.all_backbones:
        with _prefixed("backbone"):
            shapes[backbone.path_name] = _check_backbone(backbone)
            if backbone.batch_norm != "frozen" and progress and not KnownNetwork(backbone).has_batch_norm():
                progress(
                    f"note: {backbone.network_name} has no batch norm: its features are the same with "
                    f"batch_norm {backbone.batch_norm} and frozen"
                )
            _check_stated(backbone)
            if backbone.weights == "pretrain":
                _check_pretraining(grid, backbone, sources, progress, planning)
    of_pairs = {
        (name, one.path_name): source.map_shape()
        if isinstance(source, FeatureSource)
        else shapes[one.path_name]
        for name, one in grid.all_pairs
        for source in [sources[name]]
    }
    with _prefixed("storage"):
        for codec in {codec for cell in trained if (codec := codec_of(cell)) is not None}:
            codec.check()
    _check_disk(grid, of_pairs, {name: _counts(source) for name, source in sources.items()})
    if not planning:
        _check_room(grid)
    heads = {
        name: class_names(source.class_names(), grid.datasets[name].stream)
        for name, source in sources.items()
    }
    classes = {name: len(names) for name, names in heads.items()}
    _check_budgets(grid, trained, of_pairs, classes)
    for study, further in of_studies(grid).items() if of_studies else ():
        if further:
            _check_budgets(grid, further, of_pairs, classes, f"{study}: ")


def _check_used(grid: Grid) -> None:
    """Refuse backbones that no data set uses, and settings of drifting features for one that never drifts."""
    if grid.backbones and all(dataset.has_features for dataset in grid.datasets.values()):
        raise UserError("no data set uses it, as all have source features: remove the block")
    drifting = {config.network_name for config in grid.all_backbones if config.batch_norm == "drifting"}
    for backbone in grid.backbones:
        given = [("passes", backbone.passes is not None), ("maps", backbone.maps == "all")]
        unused = [key for key, is_given in given if is_given and backbone.network_name not in drifting]
        if unused:
            raise UserError(
                f"{unused[0]} has no effect on {backbone.network_name}: add batch_norm drifting, or remove it"
            )


def _check_backbone(backbone: BackboneConfig) -> tuple[int, int, int]:
    """Return the shape of the maps. The error for a weights file with other tensor names includes advice."""
    try:
        return KnownNetwork(backbone).check()
    except UserError as error:
        from sharc_core.backbones.advice import advice

        raise UserError(advice(backbone) or str(error)) from None


def _check_stated(backbone: BackboneConfig) -> None:
    if backbone.sha256 is not None:
        from sharc_core.backbones.checksums import check_stated

        check_stated(backbone)


def _check_devices(grid: Grid, progress: Progress, planning: bool) -> None:
    for key, name in (("device", grid.device), ("cells.device", grid.cells.device)):
        try:
            with _prefixed(key):
                check_device(name)
        except UserError as error:
            if not planning:
                raise
            if progress:
                progress(f"warning: {error}")


def check_folder(path: str) -> None:
    """Raise UserError if the path of the project has characters that are special to Snakemake."""
    try:
        fit_for_snakemake(path)
    except ValueError as error:
        raise UserError(f"the project's folder {path}: {error}") from None


@contextlib.contextmanager
def _prefixed(key: str) -> Iterator[None]:
    """Prefix errors with the key that they concern. An OSError about a path becomes a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"config: {key}: {error}") from None
    except OSError as error:
        raise UserError(f"config: {key}: {shown(error.filename)}: {(error.strerror or '').lower()}") from None


def _check_source(source: Source, progress: Progress, planning: bool) -> None:
    try:
        source.check(progress)
    except Missing as missing:
        if not planning:
            raise
        if progress:
            progress(f"warning: {missing}")


def _check_sizes(trained: list[Cell], classes_per_task: list[list[int]]) -> None:
    """Refuse a task of one class if Task-IL is asked for, in which it is always right."""
    single = [number for number, classes in enumerate(classes_per_task, 1) if len(classes) == 1]
    if single and any("task_il" in cell.scenarios for cell in trained):
        raise UserError(
            f"tasks: task {single[0]} has one class, which scenario task_il always gets right: take task_il "
            "out of scenarios, or give each task two classes or more"
        )


def _counts(source: Source) -> dict[str, int] | None:
    """Return the images per split, None if the user has yet to provide the files."""
    try:
        return source.counts()
    except Missing:
        return None


def _check_folder(key: str, folder: Path) -> None:
    """Raise UserError unless a path is a folder or can become one."""
    for place in (folder, *folder.parents):
        try:
            os.stat(place)
        except FileNotFoundError:
            continue
        except NotADirectoryError:  # one of its parents is a file
            continue
        except OSError as error:
            raise UserError(
                f"config: {key}: {shown(str(place))}: {(error.strerror or str(error)).lower()}"
            ) from None
        if place.is_dir():
            return
        raise UserError(f"config: {key}: {place} is a file: choose a folder or move the file away")


def _check_pretraining(
    grid: Grid,
    backbone: BackboneConfig,
    sources: dict[str, Source],
    progress: Progress,
    planning: bool,
) -> None:
    content = _pretraining_content(grid, backbone, progress, planning)
    for name, source in sources.items():
        shared = content & source.content_ids()
        if shared:
            raise UserError(
                f"pretrain.dataset shares {len(shared)} classes with data set {name} "
                f"(for example {sorted(shared)[0]}): a frozen backbone must not have seen the stream's "
                "classes"
            )


def _pretraining_content(
    grid: Grid, backbone: BackboneConfig, progress: Progress, planning: bool
) -> set[str]:
    """Return the identifiers of the classes that a backbone is pre-trained on.

    Prepared data have been checked, and their manifest has the identifiers. Reading it saves the second that
    the source needs to choose its characters, in every call of Snakemake.
    """
    if any(Path(grid.data_dir).glob("prepared/pretraining-*/manifest.json")):
        manifest = Layout(grid).pretraining_data(backbone.path_name) / "manifest.json"
        if manifest.exists():
            return set(read_json(manifest)["content_ids"])
    source = pretrain_source(grid, backbone)
    _check_source(source, progress, planning)
    return source.content_ids()


def _check_disk(grid: Grid, shapes: Shapes, counts: dict[str, dict[str, int] | None]) -> None:
    """Check the free space for missing features of the data sets whose number of images is known."""
    sizes = {}
    for dataset, backbone, folder in extracted_views(grid):
        known = counts[dataset]
        if known is not None:
            shape = shapes[dataset, backbone]
            sizes[dataset, backbone, folder] = _extent(grid, dataset, folder, known, shape)[1]
    place = Path(grid.data_dir)
    if sum(sizes.values()) > free_bytes(place):  # only then look which features exist
        layout = Layout(grid)
        folders = {layout.features(*key): size for key, size in sizes.items()}
        missing = [
            max(size - left_bytes(folder), 0)
            for folder, size in folders.items()
            if not (folder / "manifest.json").exists()
        ]
        with _prefixed("data_dir"):
            check_space(place, sum(missing), f"the features still to be extracted (folders: {len(missing)})")


def extraction_plan(grid: Grid, needed: Container[Path]) -> list[str]:
    """Return a line per backbone on its missing features: images, bytes and minutes. Call check_inputs first.

    needed: folders of features for cells that are still to be trained. The minutes are for one core, measured
    with a few images of random noise. Data sets with an unknown number of images are left out, and those of
    features, which are only copied.
    """
    layout = Layout(grid)
    totals: dict[str, tuple[int, ...]] = {}  # images, those in train mode, bytes
    counted = {dataset: _counts(layout.source(dataset)) for dataset in grid.datasets}
    shapes = {name: KnownNetwork(config).check() for name, config in layout.backbones.items()}
    # data sets with the same images share features
    folders = {layout.features(*key): key for key in extracted_views(grid)}
    for path, (dataset, backbone, folder) in folders.items():
        counts = counted[dataset]
        if (
            backbone not in shapes
            or counts is None
            or path not in needed
            or (path / "manifest.json").exists()
        ):
            continue
        images, size = _extent(grid, dataset, folder, counts, shapes[backbone])
        in_train_mode = isinstance(folder, Part) and folder.kind in ("train", "joint")
        training = counts["train"] if in_train_mode else 0
        before = totals.get(backbone, (0, 0, 0))
        totals[backbone] = tuple(map(sum, zip(before, (images, training, size), strict=True)))
    if not totals:
        return []
    from sharc_core.backbones.timing import seconds_per_image

    lines = []
    for backbone, (images, training, size) in totals.items():
        drifting, evaluated = seconds_per_image(layout.backbones[backbone], bool(training))
        minutes = (training * drifting + (images - training) * evaluated) / 60
        part = f" ({training:,} of them in train mode)" if training else ""
        lines.append(
            f"{backbone}: features still to be extracted: {images:,} images{part}, {size / 1e9:.1f} GB, "
            f"about {max(1, round(minutes)):,} minutes of one core"
        )
    return lines


def _extent(
    grid: Grid, dataset: str, folder: FeaturesFolder, counts: dict[str, int], shape: tuple[int, int, int]
) -> tuple[int, int]:
    """Return how many images pass the backbone for a folder of features, and its bytes."""
    if isinstance(folder, Part):
        return extent(folder, counts, grid.datasets[dataset].stream, shape)
    if isinstance(folder, EncodedFolder):
        return counts["train"], encoded_bytes(counts["train"], shape[0])
    images = sum(counts[split] for split in splits_of(folder.number))
    return images, cache_bytes(images, shape)


def _check_room(grid: Grid) -> None:
    """Check that results_dir and the working folder, where Snakemake keeps its files, can be written."""
    results = Path(grid.results_dir)
    for name, place in ((f"results_dir: {grid.results_dir}", results), ("working folder", Path())):
        folder = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"config: {name}: no permission to write into {folder}")
        free = free_bytes(place)
        if free < ROOM:
            raise UserError(
                f"config: {name}: the disk is full, {folder} has {free:,} bytes free: free some space and "
                "run again"
            )


def _check_budgets(
    grid: Grid, trained: Sequence[Cell], shapes: Shapes, classes: dict[str, int], study: str = ""
) -> None:
    """Check the budget of each cell against the size of its maps, or of its images once they are prepared.

    Only the prepared images tell their size, so before that it is checked by the job of the cell. So are the
    sizes of encoded images; only what head and method take is checked here. study: starts the error's key.
    """
    layout, images = Layout(grid), {}
    checks = []
    for cell in trained:
        image_shape = None
        if stores_pixels(cell):
            if cell.dataset not in images:
                images[cell.dataset] = prepared_image_shape(layout.prepared(cell.dataset))
            image_shape = images[cell.dataset]
            if image_shape is None:
                continue
        checks.append((cell, shapes[cell.dataset, cell.backbone], classes[cell.dataset], image_shape))
    key = [[cell.model_dump(mode="json"), code_hash(*cell.plugins), *rest] for cell, *rest in checks]
    known(["budgets", digest(key, 32)], lambda: _check_each_budget(checks, study))


def _check_each_budget(checks: list[tuple[Cell, Shape, int, Shape | None]], study: str) -> None:
    from sharc_core.learning.cell_memory import budget_of

    for cell, shape, classes, image_shape in checks:
        with _prefixed(f"{study}{cell.dataset}, {cell.backbone}, {cell.id}"):
            budget_of(cell, shape, classes, image_shape)
