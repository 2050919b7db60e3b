"""The paths of a grid's data, weights, features and results, and the code that makes each of them.

Grids share prepared data, weights and features, so the names of these files contain a hash of everything
they are made from, including code and libraries. The results of a grid have plain names in its results_dir.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharc_core.backbones import BackboneConfig
from sharc_core.backbones.own_features import NAME as OWN_FEATURES
from sharc_core.common.files import digest, sha256_file
from sharc_core.datasets import SOURCES, Source
from sharc_core.datasets.parts import OfParts
from sharc_core.features.drifting.part import Kept, Part
from sharc_core.features.folders import EncodedFolder, FeaturesFolder, ViewFolder
from sharc_core.features.views import view_numbers
from sharc_core.grid.cell import Cell
from sharc_core.grid.expansion import without_folders
from sharc_core.grid.feature_folders import folders_of
from sharc_core.grid.models import Grid
from sharc_core.grid.plug_in_settings import pretrain_source
from sharc_core.grid.unroll import kept_maps
from sharc_core.learning.documents import features_name
from sharc_core.provenance.code_hashes import library_versions, stage_hash
from sharc_core.stages.known_networks import KnownNetwork

OWN_CODE = ("features.own",)  # roots of the code that writes the user's features
ENCODING_CODE = ("features.encode",)  # of that which writes features of encoded images


class Layout:
    """Paths of one grid's files. It reads each input file once; create a new Layout when files may change.

    backbones: the networks of the grid. The pseudo backbone of own features is none of them.
    """

    def __init__(self, grid: Grid):
        self.grid = grid
        self.data = Path(grid.data_dir)
        self.results = Path(grid.results_dir)
        self.backbones = {backbone.path_name: backbone for backbone in grid.all_backbones}
        self._known: dict[tuple, Any] = {}

    def source(self, dataset: str) -> Source:
        """Return the data source of a data set of the grid."""
        return self._once(("source", dataset), lambda: self.grid.source(dataset))

    def pretraining_source(self, backbone: str) -> Source:
        """Return the data source that a backbone is pre-trained on. Backbones with the same data share it."""
        config = self.backbones[backbone]
        key = ("pretraining source", digest(config.pretrain.dataset))
        return self._once(key, lambda: pretrain_source(self.grid, config))

    def prepared(self, dataset: str) -> Path:
        """Return the folder of the prepared images of a data set; of the labels, if it has features.

        Data sets with the same images share it, and so their features: only their streams differ.
        """
        source = self.source(dataset)
        return self.data / "prepared" / f"{source.name}-{self._data_digest(source)}"

    def pretraining_data(self, backbone: str) -> Path:
        """Return the folder of the prepared images that a backbone is pre-trained on."""
        return self.data / "prepared" / f"pretraining-{self._data_digest(self.pretraining_source(backbone))}"

    def weights(self, backbone: str) -> Path | None:
        """Return the weights file of a backbone.

        None for own features, and for weights that a library or package holds.
        """
        if backbone == OWN_FEATURES and backbone not in self.backbones:
            return None
        config = self.backbones[backbone]
        if config.weights == "pretrain":
            file = f"{config.network_name}-{digest(self._identity(config))}.safetensors"
            return self.data / "backbones" / file
        return Path(config.weights) if config.is_local_file else None

    def card(self, backbone: str) -> Path | None:
        """Return the card of weights that are pre-trained here, None for all others."""
        weights = self.weights(backbone)
        is_ours = weights is not None and self.backbones[backbone].weights == "pretrain"
        return weights.with_suffix(".json") if weights is not None and is_ours else None

    def views(self, backbone: str) -> list[int]:
        """Return the numbers of the backbone's views."""
        return view_numbers(self.backbones[backbone].views)

    def features(self, dataset: str, backbone: str, folder: FeaturesFolder | None = None) -> Path:
        """Return the path of features of a data set from a backbone, by default those of the first view."""
        key = ("features", dataset, backbone, folder)
        return self._once(key, lambda: self._features(dataset, backbone, folder))

    def _features(self, dataset: str, backbone: str, folder: FeaturesFolder | None) -> Path:
        prepared = self.data / "features" / self.prepared(dataset).name
        if self.grid.datasets[dataset].has_features:
            return prepared / f"{OWN_FEATURES}-{digest(_made_by(*OWN_CODE))}" / ViewFolder(0).name
        config = self.backbones[backbone]
        folder = ViewFolder(self.views(backbone)[0]) if folder is None else folder
        settings = [self._identity(config), config.precision]
        if config.batch_norm != "frozen":
            stream = self.grid.datasets[dataset].stream.document
            settings.append([config.batch_norm, *stream.values(), config.views])
        key = digest([*settings, *_made_by(*features_code(config))])
        name = folder.name
        if isinstance(folder, EncodedFolder):
            made_by = [*folder.codec.libraries.items(), *_made_by(*ENCODING_CODE)]
            name += f"-{digest(made_by)}"
        return prepared / f"{backbone}-{key}" / name

    def read_by(self, cells: Sequence[Cell]) -> list[Path]:
        """Return folders of features that cells of one data set and backbone read, as open_for takes them."""
        first = cells[0]
        pair = (first.dataset, first.backbone)
        folders = folders_of(cells, first.batch_norm, first.views, lambda: self._kept(*pair))
        return [self.features(*pair, folder) for folder in folders]

    def _kept(self, dataset: str, backbone: str) -> Kept:
        key = ("kept", dataset, backbone)
        return self._once(key, lambda: kept_maps(self.grid, dataset, backbone))

    def reads(self, cell: Cell) -> dict[int, list[str]]:
        """Return by seed the names of the features that a cell reads, relative to data_dir/features.

        Names of drifting features omit the number of kept maps, because no result depends on it.
        """
        names = {}
        for seed in cell.seeds:
            folders = self.read_by([cell.model_copy(update={"seeds": [seed]})])
            if cell.batch_norm == "drifting":
                folders = [f.with_name(replace(Part.parse(f.name), kept=None).name) for f in folders]
            names[seed] = [features_name(folder) for folder in folders]
        return names

    def made_from(self, dataset: str, backbone: str, folder: FeaturesFolder) -> Path | None:
        """Return the folder of features that another is made from; None if it needs only images."""
        if not isinstance(folder, Part) or folder.kind != "tests":
            return None
        return self.features(dataset, backbone, folder.source(self._kept(dataset, backbone)))

    def network(self, name: str) -> str:
        """Return the name of the first backbone of the grid that is a variant of a network."""
        return next(key for key, config in self.backbones.items() if config.network_name == name)

    def cell(self, cell: Cell) -> Path:
        """Return the path of the result document of a cell."""
        return self.results / "matrices" / cell.dataset / cell.backbone / f"{cell.id}.json"

    def _identity(self, config: BackboneConfig) -> list:
        """Return everything that determines a backbone: architecture, input and origin of the weights."""
        settings = self._once(("network", config.path_name), lambda: _network_identity(config))
        if config.weights == "pretrain":
            data = self._data_digest(self.pretraining_source(config.path_name))
            pretraining = config.pretrain.model_dump()
            pretraining["dataset"] = without_folders(
                pretraining["dataset"]
            )  # `data` identifies the images, wherever they lie
            return [settings, pretraining, data, *_made_by(*pretrain_code(config))]
        if config.is_local_file:
            return [settings, self._once(("weights", config.weights), lambda: sha256_file(config.weights))]
        key = ("packaged weights", config.path_name)
        return [settings, self._once(key, lambda: KnownNetwork(config).weights_identity)]

    def _data_digest(self, source: Source) -> str:
        """Return a hash of the settings, files, code and libraries that prepared images come from."""
        key = ("data", id(source))
        return self._once(key, lambda: digest([source.identity(), *_made_by(*data_code(source))]))

    def _once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """Return make(), called once per key, because it may read every file of a data set."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def data_code(source: Source) -> tuple[str | Path, ...]:
    """Return the roots (see stage_hash) of the code that prepares a source, with that of its parts only."""
    own = ("datasets.base", Path(SOURCES.module_file(source.name)))
    parts = source.parts if isinstance(source, OfParts) else []
    return own + tuple(root for part in parts for root in data_code(part) if root not in own)


def pretrain_code(config: BackboneConfig) -> tuple[str | Path, ...]:
    """Return the roots of the code that pre-trains a backbone."""
    return "backbones.pretraining", KnownNetwork(config).architecture_file


def features_code(config: BackboneConfig) -> tuple[str | Path, ...]:
    """Return the roots of the code that extracts the features of a backbone."""
    roots = {
        "drifting": ["features.drifting.extract"],
        "adapted": ["features.cache", "backbones.batch_norm", "streams.stream"],
    }
    chosen = roots.get(str(config.batch_norm), ["features.cache"])
    return *chosen, *KnownNetwork(config).code


def _network_identity(config: BackboneConfig) -> list:
    """Return what determines a network's computation, besides its code: architecture, input, settings."""
    network = KnownNetwork(config)
    further = [network.further] if network.further else []
    return [config.arch, network.input_format, *further]


def _made_by(*roots: str | Path) -> tuple[str, dict[str, str]]:
    """Return code and libraries of a stage. Names of outputs contain both, so stale output is never used."""
    return stage_hash(*roots), library_versions(*roots)
