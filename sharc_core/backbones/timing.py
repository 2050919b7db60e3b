"""Measure the seconds per image before a run. No feature depends on this module."""

import time

import torch

from sharc_core.backbones.batch_norm import BatchNorms, evaluated
from sharc_core.backbones.config import BackboneConfig
from sharc_core.backbones.model import Backbone
from sharc_core.backbones.networks import network_of


def seconds_per_image(config: BackboneConfig, train_mode: bool) -> tuple[float, float]:
    """Return the seconds per image on one core of this machine, in train mode and in evaluation mode.

    train_mode: if false, the first number is 0 and not measured. Batches have ten images. The network has
    random weights, which take the same time.
    """
    network = network_of(config)
    form, body = network.form, network.body()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        backbone = Backbone(body, config, (0, 0, 0), "", form, fuse=False)  # its maps are not looked at
        images = torch.randn(10, 3, form.image_size, form.image_size)
        with torch.inference_mode():
            seconds = [0.0, _seconds(evaluated(backbone, BatchNorms(body).statistics()), images)]
            if train_mode:
                with BatchNorms(backbone.body).seeing_batches():
                    seconds[0] = _seconds(backbone, images)
    finally:
        torch.set_num_threads(threads)
    return seconds[0] / len(images), seconds[1] / len(images)


def _seconds(backbone: Backbone, images: torch.Tensor) -> float:
    backbone(images)  # the first call prepares the kernels
    began = time.perf_counter()
    backbone(images)
    return time.perf_counter() - began
