"""A GPU that is none: tensors said to be on it lie in ordinary memory and remember where they are said to be.

What a GPU would refuse is refused, with the CPU's own kernels doing the work: operations on tensors of two
devices, a CPU generator's draws made on the GPU, `.numpy()` of what lies there, operations that have no
deterministic implementation on CUDA while deterministic ones are asked for. So a run on it must give the
CPU's results to the last bit, and any tensor that was made or left on the wrong device ends it.

A storage has one device, whatever views look at it: that is what is remembered. Two of torch's hooks are at
work. Calls from Python (TorchFunctionMode) show which device the code asks for: `.to(...)`, `device=`,
`x.new_zeros(...)`, `x.device`. The operations below autograd (TorchDispatchMode), those of the backward pass
too, carry the devices on and find the mixtures.
"""

import contextlib
import os
from collections.abc import Iterator

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")

# What torch.use_deterministic_algorithms(True) refuses on CUDA: its documentation, and libtorch_cuda's texts.
UNDETERMINISTIC = {
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d_backward", "avg_pool3d_backward", "max_pool3d_with_indices_backward",
    "fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d",
    "upsample_linear1d_backward", "upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward",
    "upsample_bicubic2d_backward", "_upsample_bicubic2d_aa_backward", "upsample_trilinear3d_backward",
    "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward",
    "nll_loss2d_forward", "_ctc_loss_backward", "put", "put_", "histc", "kthvalue", "median", "nanmedian",
    "grid_sampler_2d_backward", "grid_sampler_3d_backward", "_embedding_bag_dense_backward",
}  # fmt: skip
PRODUCTS = {"mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_", "addmv", "addmv_", "mv", "convolution"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


class WrongDevice(AssertionError):
    """What a GPU would have refused; no RuntimeError, so that nothing takes it for one of its own."""


class _Places:
    """Which storages are said to be on the GPU."""

    def __init__(self):
        self.known: dict[int, StorageWeakRef] = {}
        self.inside: torch.device | None = None  # of the Python call at work
        self.draws = False
        self.operations = self.on_gpu = 0

    def of(self, tensor: torch.Tensor) -> torch.device:
        return GPU if tensor.untyped_storage()._cdata in self.known else tensor.device

    def put(self, tensor: torch.Tensor, device: torch.device) -> None:
        storage = tensor.untyped_storage()
        if device.type == "cuda":
            # the weak reference keeps the address from being given to another storage
            self.known[storage._cdata] = StorageWeakRef(storage)
        else:
            self.known.pop(storage._cdata, None)

    def forget_freed(self) -> None:
        self.known = {key: ref for key, ref in self.known.items() if not ref.expired()}


def _tensors(*values) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(values)[0] if isinstance(leaf, torch.Tensor)]


class _Below(TorchDispatchMode):
    """Operations: where their results lie, and whether a GPU would take their operands."""

    def __init__(self, places: _Places):
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = _tensors(args, kwargs)
        device = self.device_of(func, name, tensors, args, kwargs)
        if device.type == "cuda":
            self.places.on_gpu += 1
            self.check_operation(func, name, args, kwargs)
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        given = {t.untyped_storage()._cdata for t in tensors}
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            if tensor.untyped_storage()._cdata not in given:
                self.places.put(tensor, device)
        self.places.operations += 1
        if self.places.operations % 10_000 == 0:
            self.places.forget_freed()
        return result

    def device_of(self, func, name, tensors, args, kwargs) -> torch.device:
        """Where the operation computes. Raises WrongDevice for operands that do not go together."""
        asked = kwargs.get("device")
        if asked is not None and asked.type == "cuda":
            return GPU
        places = [self.places.of(t) for t in tensors]
        if name == "copy_":
            return places[0]
        if not tensors or name.startswith("new_"):
            return self.places.inside or CPU
        if len(set(places)) == 1:
            return places[0]
        # on the GPU indices may lie on the CPU, and so may single values in place of numbers
        indices = {id(t) for t in _tensors(args[1])} if name in INDEXING else set()
        lone = torch.Tag.pointwise in func.tags or name in {*INDEXING, "fill_"}
        for tensor, place in zip(tensors, places, strict=True):
            if place == CPU and id(tensor) not in indices and not (lone and tensor.ndim == 0):
                raise WrongDevice(f"{func}: {self.shown(tensors)}")
        if places[0] == CPU and (name in INDEXING or name.endswith("_")):
            raise WrongDevice(f"{func}: {self.shown(tensors)}")
        return GPU

    def check_operation(self, func, name, args, kwargs) -> None:
        generator = next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.Generator)), None)
        if generator is not None and generator.device != GPU:
            raise WrongDevice(f"{func}: a generator on {generator.device} for draws on the GPU")
        if torch.Tag.nondeterministic_seeded in func.tags and not self.places.draws:
            raise WrongDevice(f"{func}: draws on the GPU differ from the CPU's")
        if name in PRODUCTS and not torch.are_deterministic_algorithms_enabled():
            raise WrongDevice(f"{func}: computed outside of same_bits")
        if name in PRODUCTS and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
            raise WrongDevice(f"{func}: CUBLAS_WORKSPACE_CONFIG must be set for deterministic results")
        floating_sum = name in ("cumsum", "cumsum_") and args[0].is_floating_point()
        if name in UNDETERMINISTIC or floating_sum:
            raise WrongDevice(f"{func} has no deterministic implementation on CUDA")

    def shown(self, tensors) -> str:
        return ", ".join(f"{tuple(t.shape)} on {self.places.of(t).type}" for t in tensors)


class _Above(TorchFunctionMode):
    """Calls from Python: what they ask for, and what they are told."""

    def __init__(self, places: _Places):
        super().__init__()
        self.places = places

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        first = args[0] if args and isinstance(args[0], torch.Tensor) else None
        name = getattr(func, "__name__", "")
        if first is not None:
            place = self.places.of(first)
            if name == "__get__":
                told = {"device": place, "is_cuda": place == GPU, "is_cpu": place == CPU}
                attribute = getattr(getattr(func, "__self__", None), "__name__", "")
                if attribute in told:
                    return told[attribute]
            if name in ("numpy", "__array__") and place == GPU:
                raise WrongDevice(f"{name}() of a tensor on the GPU")
            if name in ("to", "cpu", "cuda"):
                return self.moved(func, name, first, args[1:], kwargs)
        asked = kwargs.get("device")
        if asked is not None:
            asked = GPU if torch.device(asked).type == "cuda" else torch.device(asked)
            kwargs["device"] = CPU if asked == GPU else asked
        on_gpu = any(self.places.of(t) == GPU for t in _tensors(args, kwargs))
        result = self.within(asked or (GPU if on_gpu else None), func, args, kwargs)
        if asked is not None:  # torch.tensor(..., device=...) moves what it made where no hook sees it
            for tensor in _tensors(result):
                self.places.put(tensor, asked)
        return result

    def within(self, device: torch.device | None, func, args, kwargs):
        before, self.places.inside = self.places.inside, device
        try:
            return func(*args, **kwargs)
        finally:
            self.places.inside = before

    def moved(self, func, name, tensor, args, kwargs):
        """`.to(...)` in all its forms, `.cpu()` and `.cuda()`."""
        target = {"cpu": CPU, "cuda": GPU}.get(name)
        rest = []
        for value in (*args, *[kwargs.pop(key) for key in ("device", "other") if key in kwargs]):
            if isinstance(value, torch.Tensor):
                target = self.places.of(value)
                rest.append(value.dtype)
            elif isinstance(value, (str, torch.device)):
                target = GPU if torch.device(value).type == "cuda" else torch.device(value)
            elif isinstance(value, torch.dtype):
                rest.append(value)
        place = self.places.of(tensor)
        target = target or place
        result = tensor
        if name == "to" and (rest or kwargs):
            result = self.within(place, func, (tensor, *rest), kwargs)
        if target == place:
            return result
        source, before = result.detach() if not result.requires_grad else result, self.places.inside
        self.places.inside = target
        try:
            result = source.clone()
        finally:
            self.places.inside = before
        self.places.put(result, target)
        return result


@contextlib.contextmanager
def pretended_gpu(draws: bool = False) -> Iterator[_Places]:
    """Within, torch has one GPU, `cuda`, and minds it.

    draws: random numbers may be drawn on the GPU (dropout in pre-training); else that is an error too.
    """
    places = _Places()
    places.draws = draws
    real_autocast = torch.autocast

    class autocast(real_autocast):
        def __init__(self, device_type, *args, **kwargs):
            super().__init__("cpu", *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("is_available", True),
            ("device_count", 1),
            ("current_device", 0),
            ("get_device_name", "pretended GPU"),
            ("is_current_stream_capturing", False),
            ("get_rng_state", None),
            ("set_rng_state", None),
            ("_lazy_init", None),
        ):
            patch.setattr(torch.cuda, name, lambda *args, value=value, **kwargs: value)
        patch.setattr(torch.backends.cudnn, "version", lambda: 1)
        patch.setattr(torch, "autocast", autocast)
        patch.setattr("sharc_core.heads.base._MINUS_ONES", {})  # kept from one run to the next, by device
        with _Above(places), _Below(places):
            yield places
