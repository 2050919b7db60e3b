"""Data sets, backbones and features of a grid. They are shared between grids and made once.

Their paths contain a hash of what they are made from, so an existing file is up to date. The plan maps each
path back to its data set, backbone and folder.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from sharc_core.features.drifting.part import Part
from sharc_core.grid.cell import Cell
from sharc_core.grid.feature_folders import stores_pixels
from sharc_core.grid.unroll import extracted_views
from sharc_core.planning.call import Call
from sharc_core.stages.layout import Layout


class Inputs:
    """Inputs of the cells, by the names of their files below data_dir.

    prepared: by folder, the data set, or the backbone that is pre-trained on it. pretrained: by weights, the
    network. caches: by path of features, data set, backbone and folder. missing_*: what rules offer to make.
    """

    def __init__(self, layout: Layout, call: Call):
        self._layout, self._call = layout, call
        self.prepared: dict[str, dict[str, str]] = {}
        self.pretrained: dict[str, str] = {}
        for name, config in layout.backbones.items():
            weights = layout.weights(name)
            if weights is not None and layout.card(name) is not None:
                # backbones that are pre-trained on the same data share its folder and the job that makes it
                self.prepared.setdefault(layout.pretraining_data(name).name, {"backbone": name})
                self.pretrained[weights.stem] = config.network_name
        for name in layout.grid.datasets:
            self.prepared[layout.prepared(name).name] = {"dataset": name}
        self.caches = {
            str(layout.features(*key).relative_to(layout.data / "features")): key
            for key in extracted_views(layout.grid)
        }
        self.missing_data = self._missing("prepared/{}/manifest.json", self.prepared, "data")
        self.missing_weights = self._missing("backbones/{}.json", self.pretrained, "pretrain")
        self.missing_features = self._missing("features/{}/manifest.json", self.caches, "features")

    def _missing(self, pattern: str, names: Iterable[str], rule: str) -> list[str]:
        """Return the names of inputs that are missing, or were requested by rule or by name."""
        paths = {str(self._layout.data / pattern.format(name)): name for name in names}

        def is_finished(path: str) -> bool:
            return _exists(Path(path)) and not self._call.is_target(path)

        return [paths[path] for path in self._call.offered(paths, is_finished, rule)]

    def features_of(self, cells: Sequence[Cell]) -> list[str]:
        """Return the manifests of the features that cells of one data set and backbone read, in order."""
        return [f"{folder}/manifest.json" for folder in self._layout.read_by(cells)]

    def images_of(self, cells: Sequence[Cell]) -> list[str]:
        """Return the manifests of the prepared images whose size some of the cells need to store them.

        The sizes of encoded images are part of their features.
        """
        datasets = {cell.dataset for cell in cells if stores_pixels(cell)}
        return [f"{self._layout.prepared(name)}/manifest.json" for name in sorted(datasets)]

    def pretrained_on(self, weights: str) -> str:
        """Return the manifest of the data that weights are trained on."""
        network = self._layout.network(self.pretrained[weights])
        return f"{self._layout.pretraining_data(network)}/manifest.json"

    def extracted_from(self, cache: str) -> list[str]:
        """Return what features are extracted from: a data set's manifest, weights and earlier features."""
        dataset, backbone, _ = self.caches[cache]
        weights, before = self._layout.weights(backbone), self._layout.made_from(*self.caches[cache])
        paths = [f"{self._layout.prepared(dataset)}/manifest.json"]
        paths += [] if weights is None else [str(weights)]  # torchvision manages its own weights
        return paths + ([] if before is None else [f"{before}/manifest.json"])

    def needs_network(self, cache: str) -> bool:
        """Whether features are what a backbone extracts, and not the user's."""
        return not self._layout.grid.datasets[self.caches[cache][0]].has_features

    def is_drifting(self, cache: str) -> bool:
        """Return whether features belong to one seed, as those of a drifting backbone do.

        Their extraction uses batches of ten images, which are too small to use a second core.
        """
        return isinstance(self.caches[cache][2], Part)


def _exists(path: Path) -> bool:
    """Return whether a manifest exists, or a card and the weights next to it."""
    return path.exists() and (path.name == "manifest.json" or path.with_suffix(".safetensors").exists())
