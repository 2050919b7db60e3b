"""Where a grid's files lie, and its stages as functions: data set, weights, features, cell.

The Snakefile's rules and the command line both call these; neither knows more than they do.
Prepared data, weights and features are shared between grids, so their names carry a hash of what
they are made from, code and libraries included; a grid's own results lie in its results_dir under
plain names.
"""

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sharc_core.backbones import BackboneConfig, load_backbone
from sharc_core.backbones.architectures import ARCHITECTURES
from sharc_core.backbones.checksums import check_weights
from sharc_core.backbones.preprocess import resolve
from sharc_core.backbones.weights import download, weights_entry
from sharc_core.cell import Cell
from sharc_core.config import Grid, pretrain_source
from sharc_core.datasets import SOURCES, Source, open_prepared
from sharc_core.device import resolve_device
from sharc_core.errors import UserError
from sharc_core.features import Features, extract_features, open_views
from sharc_core.files import digest, disk_errors, sha256_file
from sharc_core.pretrain import pretrain
from sharc_core.provenance import library_versions, stage_hash
from sharc_core.unroll import extracted_views
from sharc_core.views import view_numbers

Progress = Callable[[str], None] | None


class Layout:
    """Paths of one grid's files. Make a new one when files may have changed: it looks at each only once."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.data = Path(grid.data_dir)
        self.results = Path(grid.results_dir)
        self.backbones = {backbone.path_name: backbone for backbone in grid.backbones}
        self._known: dict[tuple, Any] = {}

    def source(self, dataset: str) -> Source:
        """The data source of a data set of the grid."""
        return self._once(("source", dataset), lambda: self.grid.source(dataset))

    def pretraining_source(self, backbone: str) -> Source:
        """The data source that a backbone is pre-trained on; one for all that are on the same data."""
        config = self.backbones[backbone]
        key = ("pretraining source", digest(config.pretrain.dataset))
        return self._once(key, lambda: pretrain_source(self.grid, config))

    def prepared(self, dataset: str) -> Path:
        """Prepared images of a data set of the grid."""
        return self.data / "prepared" / f"{dataset}-{self._data_digest(self.source(dataset))}"

    def pretraining_data(self, backbone: str) -> Path:
        """Prepared images that a backbone is pre-trained on."""
        return self.data / "prepared" / f"pretraining-{self._data_digest(self.pretraining_source(backbone))}"

    def weights(self, backbone: str) -> Path | None:
        """The backbone's weights file; None when torchvision holds them."""
        config = self.backbones[backbone]
        if config.weights == "pretrain":
            return self.data / "backbones" / f"{backbone}-{digest(self._identity(config))}.safetensors"
        return Path(config.weights) if config.is_local_file else None

    def card(self, backbone: str) -> Path | None:
        """The card of weights that were pre-trained here."""
        weights = self.weights(backbone)
        is_ours = self.backbones[backbone].weights == "pretrain"
        return weights.with_suffix(".json") if is_ours else None

    def views(self, backbone: str) -> list[int]:
        """Numbers of the backbone's views."""
        return view_numbers(self.backbones[backbone].views)

    def features(self, dataset: str, backbone: str, view: int | None = None) -> Path:
        """Feature cache of a data set through a backbone; of its first view by default."""
        config = self.backbones[backbone]
        view = self.views(backbone)[0] if view is None else view
        key = digest([self._identity(config), config.precision, *_made_by(*features_code(config))])
        return self.data / "features" / self.prepared(dataset).name / f"{backbone}-{key}" / f"view{view}"

    def cell(self, cell: Cell) -> Path:
        """Result document of a cell."""
        return self.results / "matrices" / cell.dataset / cell.backbone / f"{cell.id}.json"

    def _identity(self, config: BackboneConfig) -> list:
        """What a backbone is a function of: architecture, input, and what its weights come from."""
        settings = [config.arch, asdict(resolve(config))]
        if config.weights == "pretrain":
            data = self._data_digest(self.pretraining_source(config.path_name))
            return [settings, config.pretrain.model_dump(), data, *_made_by(*pretrain_code(config))]
        if config.is_local_file:
            return [settings, self._once(("weights", config.weights), lambda: sha256_file(config.weights))]
        return [settings, weights_entry(config.arch, config.weights).name]

    def _data_digest(self, source: Source) -> str:
        """Of all that a source's prepared images come from; settings and files, code and libraries."""
        key = ("data", id(source))
        return self._once(key, lambda: digest([source.identity(), *_made_by(*data_code(source))]))

    def _once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """make() when a key is asked for the first time: it may look at every file of a data set."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def data_code(source: Source) -> tuple[str | Path, ...]:
    """Roots (see provenance.stage_hash) of the code that prepares a source: no other source counts."""
    return "datasets.base", Path(SOURCES.module_file(source.name))


def pretrain_code(config: BackboneConfig) -> tuple[str | Path, ...]:
    """Roots of the code that pre-trains a backbone."""
    return "pretrain", Path(ARCHITECTURES.module_file(config.arch))


def features_code(config: BackboneConfig) -> tuple[str | Path, ...]:
    """Roots of the code that a backbone's features come from."""
    return "features", Path(ARCHITECTURES.module_file(config.arch))


def _made_by(*roots: str | Path) -> tuple[str, dict[str, str]]:
    """Code and libraries of a stage, for the name of what it makes: a stale folder is never a result."""
    return stage_hash(*roots), library_versions(*roots)


def fetch_weights(grid: Grid, progress: Progress = None) -> None:
    """Download, where need be, torchvision's weights that features are still to be extracted with.

    Into torch's cache, where the jobs look (a mirrored file stays where it is). Raises UserError.
    """
    layout = Layout(grid)
    missing = {
        b for d, b, v in extracted_views(grid) if not (layout.features(d, b, v) / "manifest.json").exists()
    }
    mirror = Path(grid.mirror) if grid.mirror else None
    for config in grid.backbones:
        if config.is_torchvision and config.path_name in missing:
            entry = weights_entry(config.arch, config.weights)
            if progress:
                progress(f"weights: {entry}")
            check_weights(config, None, None, mirror)
            download(entry, mirror)


def prepare_data(source: Source, folder: Path, progress: Progress = None) -> None:
    """Fetch or render a source's images into `folder`."""
    source.prepare(folder, progress)


def pretrain_backbone(grid: Grid, backbone: str, progress: Progress = None) -> None:
    """Pre-train a backbone on its prepared data; writes weights and card."""
    layout = Layout(grid)
    weights = layout.weights(backbone)
    try:
        pretrain(
            layout.backbones[backbone],
            open_prepared(layout.pretraining_data(backbone)),
            weights,
            layout.card(backbone),
            device=resolve_device(grid.device),
            progress=progress,
        )
    except SafetensorError as error:  # what it has for the system's errors when it writes
        number = re.search(r"os error (\d+)", str(error))
        with disk_errors(weights):
            raise OSError(int(number[1]) if number else 0, str(error)) from error


def build_features(grid: Grid, dataset: str, backbone: str, view: int, progress: Progress = None) -> None:
    """Run the backbone once over a view of a prepared data set."""
    layout = Layout(grid)
    device = resolve_device(grid.device)
    mirror = Path(grid.mirror) if grid.mirror else None
    check_weights(layout.backbones[backbone], layout.weights(backbone), layout.card(backbone), mirror)
    model = load_backbone(layout.backbones[backbone], layout.weights(backbone), device, mirror)
    extract_features(
        open_prepared(layout.prepared(dataset)),
        model,
        layout.features(dataset, backbone, view),
        view=view,
        device=device,
        progress=progress,
    )


def ensure_features(
    grid: Grid, dataset: str, backbone: str | None = None, progress: Progress = None
) -> Features:
    """Features of a data set, made on the spot (data, weights and all) when they are not there yet.

    All views that the grid's cells train on. backbone: its name; the grid's first by default. Raises
    UserError for a data set or backbone that the grid does not have.
    """
    layout = Layout(grid)
    backbone = backbone or next(iter(layout.backbones))
    for name, known in ((dataset, grid.datasets), (backbone, layout.backbones)):
        if name not in known:
            raise UserError(f"the grid has no {name!r}; it has: {', '.join(known)}")
    folders = {
        key[2]: layout.features(*key) for key in extracted_views(grid) if key[:2] == (dataset, backbone)
    }
    missing = [view for view, folder in folders.items() if not (folder / "manifest.json").exists()]
    if missing:
        _ensure_inputs(layout, dataset, backbone, progress)
    for view in missing:
        build_features(grid, dataset, backbone, view, progress)
    return open_views(list(folders.values()))


def _ensure_inputs(layout: Layout, dataset: str, backbone: str, progress: Progress) -> None:
    """What features are extracted from: prepared data and, where it is pre-trained here, the backbone."""
    if not (layout.prepared(dataset) / "manifest.json").exists():
        prepare_data(layout.source(dataset), layout.prepared(dataset), progress)
    if layout.card(backbone) is not None and not layout.card(backbone).exists():
        data = layout.pretraining_data(backbone)
        if not (data / "manifest.json").exists():
            prepare_data(layout.pretraining_source(backbone), data, progress)
        pretrain_backbone(layout.grid, backbone, progress)
