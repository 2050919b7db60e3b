"""The pickle reader loads everything that pickled arrays need and runs no code."""

import io
import os
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
from archive_factory import python2_pickle
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sharc_core.common.errors import UserError
from sharc_core.datasets.restricted_pickle import load_pickle

KINDS = ["u1", "i1", "<i2", ">i4", "<i8", "<f4", ">f8", "?", "<U3", "S4"]


def load(content: bytes) -> object:
    return load_pickle(io.BytesIO(content), "file.pkl")


def pickled(content: object, protocol: int) -> bytes:
    return pickle.dumps(content, protocol)


@given(
    kind=st.sampled_from(KINDS),
    shape=arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    order=st.sampled_from("CF"),
    protocol=st.integers(0, 5),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_arrays_come_out_as_they_went_in(kind, shape, order, protocol, data):
    dtype = np.dtype(kind)
    content = data.draw(st.binary(min_size=dtype.itemsize * int(np.prod(shape)), max_size=4096))
    if dtype.kind == "U":  # code points
        content = bytes(len(content))
    count = int(np.prod(shape))
    array = np.frombuffer(content, dtype if dtype.kind != "b" else np.uint8, count=count)
    array = np.asarray(array.reshape(shape).astype(dtype), order=order)
    found = load(pickled({"a": array, "b": [1, "text", b"\xff", 2.5, None, True]}, protocol))
    # numpy converts unpickled arrays to the machine's byte order
    assert found["a"].dtype.newbyteorder("=") == dtype.newbyteorder("=")
    assert found["a"].shape == array.shape
    assert found["a"].astype(dtype).tobytes() == array.tobytes()
    assert found["b"] == [1, "text", b"\xff", 2.5, None, True]


def test_what_python_2_wrote():
    array = np.arange(300, dtype=np.uint8).reshape(3, 100)
    found = load(python2_pickle({"data": array, "labels": [1, 2], "name": "a\xe9"}))
    assert np.array_equal(found["data"], array)
    assert found["labels"] == [1, 2]
    assert found["name"] == "a\xe9"


def test_a_name_is_shown_on_one_line():
    with pytest.raises(UserError, match="it asks for os.systemx, and only"):
        load(b"\x80\x04\x8c\x02os\x8c\x08system\nx\x93.")


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_scalars_are_loaded(protocol):
    assert load(pickled([np.int64(3), np.float32(0.5)], protocol)) == [3, 0.5]


class Asks:
    """An object whose pickle calls the given function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.reliability("pickles")
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Asks(os.system, "touch {mark}"), "(posix|nt).system"),
        (Asks(eval, "open('{mark}', 'w')"), "(builtins|__builtin__).eval"),
        (Asks(getattr, "text", "upper"), "(builtins|__builtin__).getattr"),
        (Asks(np.fromfile, "/etc/passwd"), "numpy.fromfile"),
        (OrderedDict(a=1), "collections.OrderedDict"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_any_other_class_or_function_is_refused_and_named(tmp_path, content, named, protocol):
    mark = tmp_path / "mark"
    if isinstance(content, Asks):
        content = Asks(*(a.format(mark=mark) if isinstance(a, str) else a for a in content.call))
    bad = pickled({"data": content}, protocol)
    with pytest.raises(UserError, match=rf"file\.pkl is refused: it asks for {named}, .*: get it") as caught:
        load(bad)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.array([{}, 1], dtype=object), "an array of 'O8'"),
        (np.zeros(2, dtype=[("a", "u1")]), "an array of 'V1'"),
        (np.zeros(2, dtype="M8[s]"), "an array of 'M8'"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_anything_else_are_refused(array, what, protocol):
    with pytest.raises(UserError, match=f"is refused: it holds {what}"):
        load(pickled(array, protocol))


@pytest.mark.reliability("pickles")
def test_sizes_that_are_only_claimed_fill_no_memory():
    huge = 10**13
    claims = [
        # numpy.core.multiarray._reconstruct(numpy.ndarray, (10^13,), 'b')
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        + b"\x8a\x08"
        + struct.pack("<q", huge)
        + b"\x85U\x01b\x87R.",
        # a state of this shape with one byte of content
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + b"\x8a\x08"
        + struct.pack("<q", huge)
        + b"\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R\x89U\x01xtb.",
        # a state whose content is an integer: bytes(n) would be n zeros
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + b"K\x01\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R\x89"
        + b"\x8a\x08"
        + struct.pack("<q", huge)
        + b"tb.",
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # an entry of the memo at two billion
    ]
    tracemalloc = pytest.importorskip("tracemalloc")
    tracemalloc.start()
    try:
        for content in claims:
            try:
                load(content)
            except UserError as error:
                assert "\n" not in str(error)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@given(cut=st.floats(0, 0.999), flip=st.floats(0, 0.999), bit=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_damage_is_one_line_or_harmless(cut, flip, bit):
    content = bytearray(python2_pickle({"data": np.arange(50, dtype=np.uint8), "labels": [1] * 5}))
    with pytest.raises(UserError, match=r"^file\.pkl is (not a readable pickle, it is damaged|refused)"):
        load(content[: int(cut * len(content))])
    content[int(flip * len(content))] ^= bit
    try:
        load(content)
    except UserError as error:
        assert str(error).startswith("file.pkl is ")
        assert "\n" not in str(error)
