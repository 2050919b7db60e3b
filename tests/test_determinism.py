"""Settings and layers for deterministic results on a GPU, tested as far as possible on a CPU."""

import pytest
import torch
from torch import nn

from sharc_core.common.determinism import AveragePool, replace_pools, same_bits


@pytest.mark.parametrize(("size", "bins"), [((7, 7), 3), ((6, 4), (6, None)), ((2, 3), (5, 2)), ((9, 9), 9)])
def test_deterministic_pools_equal_torchs(size, bins):
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    ours, torchs = AveragePool(bins), nn.AdaptiveAvgPool2d(bins)
    inputs = [maps.clone().requires_grad_() for _ in range(2)]
    pooled = [pool(x) for pool, x in zip((ours, torchs), inputs, strict=True)]
    torch.testing.assert_close(*pooled)
    for values in pooled:
        values.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


def test_pools_without_a_deterministic_gradient_are_replaced():
    """AlexNet and VGG have such pools. A global pool is a mean and is not replaced."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d((2, 2)), nn.AdaptiveAvgPool2d(1))
    names, images = list(model.state_dict()), torch.randn(2, 3, 9, 9)
    before = model(images)
    replace_pools(model)
    assert [type(module) for module in model] == [nn.Conv2d, AveragePool, nn.AdaptiveAvgPool2d]
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(images), before)


def test_settings_are_restored():
    def settings():
        return [
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.conv.fp32_precision,
            torch.backends.cudnn.allow_tf32,  # raises an error where torch's two spellings disagree
            torch.backends.cuda.matmul.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ]

    before, tf32 = settings(), torch.backends.cuda.matmul.allow_tf32
    with same_bits("cpu"):
        assert settings() == before
    try:
        torch.backends.cuda.matmul.allow_tf32 = True  # the setting of NVIDIA's containers
        outside = settings()
        with same_bits("cuda"):
            assert settings() == [False, True, "ieee", False, False, True, False, False]
        assert settings() == outside
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
