"""A pretended GPU, for tests of device placement on machines without one.

Tensors on `cuda` are in ordinary memory and the CPU computes them, so results must equal the CPU's bits. A
record says which storages are on the GPU. Operations on tensors of two devices, and `.numpy()` of a tensor on
the GPU, raise WrongDevice. Two of torch's hooks work together: a TorchFunctionMode sees which device Python
code asks for (`.to(...)`, `device=`, `x.device`), and a TorchDispatchMode sees every operation, including
those of the backward pass. Random numbers and deterministic kernels need a real GPU: see test_cuda.py.
"""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


class WrongDevice(AssertionError):
    """An error that a GPU would raise; not a RuntimeError, which the code under test may handle."""


class _Placement:
    """The storages that are on the GPU, the device that the current Python call asks for, and a count."""

    def __init__(self):
        self.on_gpu: dict[int, StorageWeakRef] = {}
        self.asked: torch.device | None = None
        self.gpu_operations = 0

    def of(self, tensor: torch.Tensor) -> torch.device:
        return GPU if tensor.untyped_storage()._cdata in self.on_gpu else tensor.device

    def put(self, tensor: torch.Tensor, device: torch.device) -> None:
        storage = tensor.untyped_storage()
        if device.type == "cuda":
            # the weak reference prevents that the address is reused for another storage
            self.on_gpu[storage._cdata] = StorageWeakRef(storage)
        else:
            self.on_gpu.pop(storage._cdata, None)


def _tensors(*values) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(values)[0] if isinstance(leaf, torch.Tensor)]


class _Operations(TorchDispatchMode):
    """Places the results of operations and refuses operands of different devices."""

    def __init__(self, placement: _Placement):
        super().__init__()
        self.placement = placement

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        operands = _tensors(args, kwargs)
        device = self.device_of(func, operands, args, kwargs)
        self.placement.gpu_operations += device == GPU
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        storages = {tensor.untyped_storage()._cdata for tensor in operands}
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            if tensor.untyped_storage()._cdata not in storages:
                self.placement.put(tensor, device)
        return result

    def device_of(self, func, operands, args, kwargs) -> torch.device:
        """Return the device that computes an operation."""
        name, devices = func.overloadpacket.__name__, [self.placement.of(tensor) for tensor in operands]
        if kwargs.get("device") is not None and kwargs["device"].type == "cuda":
            return GPU
        if name == "copy_":
            return devices[0]
        if not operands or name.startswith("new_"):
            return self.placement.asked or CPU
        if len(set(devices)) == 1:
            return devices[0]
        # torch allows CPU tensors among a GPU's operands where they are indices or single values
        indices = {id(tensor) for tensor in _tensors(args[1])} if name in INDEXING else set()
        takes_numbers = torch.Tag.pointwise in func.tags or name in {*INDEXING, "fill_"}
        wrong = [
            tensor
            for tensor, device in zip(operands, devices, strict=True)
            if device == CPU and id(tensor) not in indices and not (takes_numbers and tensor.ndim == 0)
        ]
        if wrong or (devices[0] == CPU and (name in INDEXING or name.endswith("_"))):
            shapes = zip(operands, devices, strict=True)
            raise WrongDevice(f"{func}: {', '.join(f'{tuple(t.shape)} on {d.type}' for t, d in shapes)}")
        return GPU


class _Calls(TorchFunctionMode):
    """Answers which device a tensor is on, and records the device that a call asks for."""

    def __init__(self, placement: _Placement):
        super().__init__()
        self.placement = placement

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if args and isinstance(args[0], torch.Tensor):
            device = self.placement.of(args[0])
            attribute = getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else ""
            if attribute in ("device", "is_cuda"):
                return device if attribute == "device" else device == GPU
            if name in ("numpy", "__array__") and device == GPU:
                raise WrongDevice(f"{name}() of a tensor on the GPU")
            if name in ("to", "cpu", "cuda"):
                return self.moved(name, *args, **kwargs)
        asked = None
        if kwargs.get("device") is not None:
            device = torch.device(kwargs["device"])
            asked, kwargs["device"] = (GPU, CPU) if device.type == "cuda" else (device, device)
        is_on_gpu = any(self.placement.of(tensor) == GPU for tensor in _tensors(args, kwargs))
        with self.asking_for(asked or (GPU if is_on_gpu else None)):
            result = func(*args, **kwargs)
        if asked is not None:  # torch.tensor(..., device=...) moves its result where no mode sees it
            for tensor in _tensors(result):
                self.placement.put(tensor, asked)
        return result

    @contextlib.contextmanager
    def asking_for(self, device: torch.device | None) -> Iterator[None]:
        """Place tensors that are made without operands on `device`."""
        before, self.placement.asked = self.placement.asked, device
        try:
            yield
        finally:
            self.placement.asked = before

    def moved(self, name: str, tensor: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """Return what `tensor.to(...)`, `.cpu()` or `.cuda()` returns."""
        here, target, dtype = self.placement.of(tensor), {"cpu": CPU, "cuda": GPU}.get(name), None
        for like in _tensors(args, kwargs):  # .to(other)
            target, dtype = self.placement.of(like), like.dtype
        if target is None:
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
            target = here if device is None else GPU if device.type == "cuda" else CPU
        with self.asking_for(here):
            result = tensor.to(dtype) if dtype else tensor
        if target != here:
            result = result.clone()
            self.placement.put(result, target)
        return result


@contextlib.contextmanager
def pretended_gpu() -> Iterator[_Placement]:
    """Give torch one GPU, `cuda`, within the block."""
    placement = _Placement()
    values = {"is_available": True, "device_count": 1, "current_device": 0, "_lazy_init": None}
    values |= {"get_device_name": "pretended GPU", "is_current_stream_capturing": False}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(torch.cuda, name, lambda *args, value=value, **kwargs: value)
        patch.setattr(torch.backends.cudnn, "version", lambda: 1)
        patch.setattr("sharc_core.heads.base._MINUS_ONES", {})  # a cache of tensors by device
        with _Calls(placement), _Operations(placement):
            yield placement
