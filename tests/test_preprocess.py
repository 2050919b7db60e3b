"""Preprocessing follows torchvision's weights unless the config overrides it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models import ResNet18_Weights, ResNet50_Weights, ViT_B_16_Weights
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from sharc_core.backbones import BackboneConfig, check_backbone
from sharc_core.backbones import preprocess as preprocess_module
from sharc_core.backbones.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    InputFormat,
    Preprocess,
    of_images,
    resolve,
)
from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid

torch.set_num_threads(1)


def config(arch="resnet18", weights="imagenet1k_v1", **others) -> BackboneConfig:
    return BackboneConfig(arch=arch, weights=weights, **others)


TORCHVISIONS = [
    ("resnet18", "imagenet1k_v1", ResNet18_Weights.IMAGENET1K_V1),
    ("resnet50", "IMAGENET1K_V2", ResNet50_Weights.IMAGENET1K_V2),
    ("resnet50", "default", ResNet50_Weights.IMAGENET1K_V2),
    ("vit_b_16", "imagenet1k_v1", ViT_B_16_Weights.IMAGENET1K_V1),
    ("vit_b_16", "imagenet1k_swag_e2e_v1", ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1),
    ("vit_b_16", "imagenet1k_swag_linear_v1", ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1),
]


@pytest.mark.parametrize(("arch", "name", "entry"), TORCHVISIONS)
@pytest.mark.parametrize("size", [(32, 32), (300, 300), (40, 61), (501, 333)])
def test_preprocessing_equals_torchvisions_transforms(arch, name, entry, size):
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    wanted = entry.transforms()(images.permute(0, 3, 1, 2))
    got = Preprocess(resolve(config(arch, name)))(images)
    assert got.shape == wanted.shape
    # torchvision rounds to whole grey levels after resizing; ours does not
    tolerance = 0.51 / 255 / min(entry.transforms().std)
    assert (got - wanted).abs().max() <= tolerance
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_shapes_follow_the_weights_image_size():
    assert check_backbone(config("vit_b_16", "imagenet1k_swag_e2e_v1")) == (768, 24, 24)
    assert check_backbone(config("vit_b_16", "imagenet1k_v1")) == (768, 14, 14)
    assert check_backbone(config("resnet18")) == (512, 7, 7)


def test_the_config_overrides_the_weights():
    form = resolve(config(image_size=64))
    assert (form.image_size, form.resize_size) == (64, 64), "an image size of one's own is not cropped to"
    form = resolve(config(image_size=64, resize_size=72, interpolation="nearest", mean=[0.1] * 3))
    assert (form.image_size, form.resize_size, form.interpolation) == (64, 72, "nearest")
    assert form.mean == [0.1] * 3 and form.std == list(IMAGENET_STD)
    assert resolve(config(resize_size=240)) == InputFormat(
        224, 240, "bilinear", list(IMAGENET_MEAN), list(IMAGENET_STD)
    )
    assert resolve(config("vit_b_16", "imagenet1k_swag_e2e_v1", image_size=384)) == resolve(
        config("vit_b_16", "imagenet1k_swag_e2e_v1")
    )


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("size", [(32, 32), (8, 8), (20, 45), (64, 33)])
def test_sizes_and_modes_one_by_one(mode, size):
    form = InputFormat(24, 32, mode, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    got = Preprocess(form)(images)
    planes, short = images.permute(0, 3, 1, 2).float(), min(size)
    if short != 32:
        to = tuple(int(32 * edge / short) for edge in size)
        options = {} if mode == "nearest" else {"antialias": True, "align_corners": False}
        planes = F.interpolate(planes, size=to, mode=mode, **options).clamp(0, 255)
    top, left = (round((edge - 24) / 2) for edge in planes.shape[2:])
    planes = planes[:, :, top : top + 24, left : left + 24] / 255
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    torch.testing.assert_close(got, (planes - mean) / std, rtol=1e-5, atol=1e-5)


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(UserError, match=r"resize_size 200 is smaller than the 224 px that are cut out"):
        check_backbone(config(resize_size=200))


@pytest.mark.parametrize("weights", ["pretrain", "some/where.safetensors"])
def test_without_torchvisions_weights_the_size_must_be_given(weights):
    block = {"arch": "resnet18", "weights": weights}
    for backbone in (block, [block]):
        with pytest.raises(
            UserError, match=r"^config: backbone.*: image_size is missing: weights "
        ) as caught:
            load_grid({"datasets": {"d": {"source": "digits", "tasks": 5}}, "backbone": backbone})
        assert "\n" not in str(caught.value)


# normalisation: dataset


def dataset_form(images: np.ndarray, **others) -> InputFormat:
    return of_images(resolve(config(normalisation="dataset", **others)), images)


def uneven_images(count: int = 9, size: tuple[int, int] = (12, 10)) -> np.ndarray:
    """Return images whose colours have different means and deviations."""
    source = np.random.default_rng(0)
    images = source.normal([60, 130, 220], [20, 40, 60], (count, *size, 3))
    return images.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("counted", [4096, 4, 1])
def test_the_data_sets_mean_and_deviation_are_those_of_all_pixels(counted, monkeypatch):
    """The result does not depend on the number of images per block."""
    monkeypatch.setattr(preprocess_module, "COUNTED", counted)
    images = uneven_images()
    form = dataset_form(images, image_size=24)
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(form.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(form.std, pixels.std(0), rtol=1e-10)
    assert form.normalise_first and (form.image_size, form.interpolation) == (24, "bilinear")


def test_images_at_their_own_size_have_mean_0_and_deviation_1():
    images = uneven_images(size=(16, 16))
    got = Preprocess(dataset_form(images, image_size=16))(torch.from_numpy(images))
    torch.testing.assert_close(got.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("size", [(32, 32), (8, 8), (20, 45), (64, 33)])
def test_the_data_sets_normalisation_comes_before_the_resize_as_in_torchvision(mode, size):
    """ToTensor, Normalize, Resize, one image at a time."""
    images = uneven_images(3, size)
    form = dataset_form(images, image_size=24, resize_size=32, interpolation=mode)
    resize = Resize(32, InterpolationMode(mode), antialias=mode != "nearest")
    transform = Compose([ToTensor(), Normalize(form.mean, form.std), resize, CenterCrop(24)])
    got = Preprocess(form)(torch.from_numpy(images))
    wanted = torch.stack([transform(image) for image in images])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_before_or_after_a_resize_that_does_not_overshoot_is_the_same(mode):
    images = uneven_images(3, (20, 45))
    form = dataset_form(images, image_size=24, resize_size=32, interpolation=mode)
    after = InputFormat(form.image_size, form.resize_size, mode, form.mean, form.std)
    batch = torch.from_numpy(images)
    torch.testing.assert_close(Preprocess(form)(batch), Preprocess(after)(batch), rtol=1e-5, atol=1e-5)


def test_a_colour_that_never_varies_is_refused():
    images = uneven_images()
    images[..., 1] = 7
    with pytest.raises(UserError, match=r"^normalisation dataset: .* never varies: use weights$"):
        dataset_form(images)


@pytest.mark.parametrize("given", [{"mean": [0.5] * 3}, {"std": [0.5] * 3}])
def test_a_mean_of_ones_own_and_the_data_sets_exclude_each_other(given):
    block = {"arch": "resnet18", "weights": "imagenet1k_v1", "normalisation": "dataset"} | given
    with pytest.raises(UserError, match=r"^config: backbone.*takes mean and std from the images: leave them"):
        load_grid({"datasets": {"d": {"source": "digits", "tasks": 5}}, "backbone": block})
