"""Images stored as JPEG and WebP: their bytes, their features, and budgets that count each file."""

import io
import shutil
from itertools import pairwise

import numpy as np
import pandas as pd
import PIL
import pytest
import torch
import yaml
from factories import make_cell, make_features
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_grid import small_grid
from snake import snakemake
from test_config import BASE
from test_features import backbone, random_images  # noqa: F401 (a fixture)

from sharc_core import ensure_features, run_cell
from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json, write_json
from sharc_core.common.pooling import pool
from sharc_core.datasets import open_prepared
from sharc_core.features.cache import extract_features, open_features
from sharc_core.features.drifting.part import START
from sharc_core.features.encode import extract_encoded
from sharc_core.features.folders import EncodedFolder, ViewFolder, parse_folder
from sharc_core.features.opening import open_folders
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells, extracted_views
from sharc_core.learning import learner
from sharc_core.representations import REPRESENTATIONS
from sharc_core.representations.codec import Codec
from sharc_core.selection import SELECTIONS, StreamSelection
from sharc_core.selection.reservoir import Reservoir
from sharc_core.stages.build import build_features
from sharc_core.stages.cell_jobs import read_by
from sharc_core.stages.layout import Layout
from sharc_core.stages.preflight import check_inputs

JPEG, WEBP, LOSSLESS = Codec("jpeg", 75), Codec("webp", 75), Codec("webp", 75, True)
QUALITIES = (5, 30, 60, 75, 90, 100)
FEATURES = make_features(classes=6, train_per_class=25)


@pytest.fixture
def folder(small_features, tmp_path):
    """A copy of the small grid's data, weights and features that one test may change."""
    shutil.copytree(small_features, tmp_path / "small")
    return tmp_path / "small"


def grid_of(folder, **changes):
    """Return the small grid with a replay method that stores plain samples."""
    values = small_grid(folder).model_dump()
    values |= {"methods": ["er"], "variants": ["plain"], "seeds": [0, 1], "buffers": [4]}
    return load_grid(values | {"budget": {"unit": "slots"}} | changes)


def glyphs(small_features):
    grid = small_grid(small_features)
    return open_prepared(Layout(grid).prepared("s_glyphs"))


def kept_memories(monkeypatch) -> list:
    """Return a list to which every memory that a cell makes is appended."""
    made, make = [], learner.make_memory
    monkeypatch.setattr(learner, "make_memory", lambda *args: made.append(make(*args)) or made[-1])
    return made


# --- codecs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [JPEG, WEBP, LOSSLESS], ids=lambda codec: codec.name)
def test_a_codec_is_what_pillow_writes_and_reads(codec, small_features):
    for image in glyphs(small_features).test_images[:4]:
        stream = io.BytesIO()
        options = {"lossless": True} if codec.lossless else {}
        Image.fromarray(image).save(stream, codec.format, quality=75, **options)
        assert codec.encode(image) == stream.getvalue()
        decoded = codec.decode(codec.encode(image))
        assert np.array_equal(decoded, np.array(Image.open(stream).convert("RGB")))
        assert np.array_equal(decoded, image) == codec.lossless


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_a_higher_quality_takes_more_bytes(name, small_features):
    images = glyphs(small_features).test_images
    sizes = [sum(len(Codec(name, quality).encode(image)) for image in images) for quality in QUALITIES]
    assert all(fewer < more for fewer, more in pairwise(sizes))


# --- features ------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [JPEG, WEBP], ids=lambda codec: codec.name)
def test_vectors_are_those_of_the_decoded_images(codec, backbone, tmp_path):  # noqa: F811
    """Bit for bit, in the batches of the cache; and sizes are those of the files."""
    data = random_images(train=23)
    extract_encoded(data, backbone, tmp_path / "out", codec, batch_size=8)
    pooled, sizes = (np.load(tmp_path / f"out/train_{name}.npy") for name in ("pooled", "sizes"))
    for start in range(0, 23, 8):
        batch, decoded = data.train_images[start : start + 8], []
        for image in batch:
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, codec.format, quality=75)
            decoded.append(np.array(Image.open(stream).convert("RGB")))
        with torch.inference_mode():
            maps = backbone(backbone.preprocess(torch.from_numpy(np.stack(decoded))))
        assert np.array_equal(pooled[start : start + 8], pool(maps.half()).numpy())
        assert sizes[start : start + 8].tolist() == [len(codec.encode(image)) for image in batch]
    manifest = read_json(tmp_path / "out/manifest.json")
    assert manifest["codec"]["libraries"]["pillow"] == PIL.__version__


@pytest.mark.parametrize("view", [0, 2])
def test_a_lossless_codec_gives_the_vectors_of_the_cache(view, backbone, tmp_path):  # noqa: F811
    """Of the same view, bit for bit, so augmented copies are encoded as a seed sees them."""
    data = random_images()
    extract_features(data, backbone, tmp_path / "view", view=view, batch_size=8)
    extract_encoded(data, backbone, tmp_path / "coded", LOSSLESS, view=view, batch_size=8)
    same, other = (np.load(tmp_path / f"{name}/train_pooled.npy") for name in ("view", "coded"))
    assert np.array_equal(same, other)


def test_names_of_folders_are_read_back():
    for one in (ViewFolder(3), EncodedFolder(JPEG, 0), EncodedFolder(LOSSLESS, 12), START):
        assert parse_folder(one.name) == one
    assert parse_folder("jpeg75-view0-0a1b2c3d") == EncodedFolder(JPEG, 0)
    for name in ("jpeg", "png75-view0", "view", "webp75-lossless"):
        with pytest.raises(ValueError, match="is not the name of a part"):
            parse_folder(name)


def test_images_are_encoded_only_for_cells_that_store_them(folder, monkeypatch):
    """In a folder beside the view, whose name changes with Pillow, and whatever else the grid stores."""
    grids = {name: grid_of(folder, storage=name) for name in ("image", "jpeg")}
    both = grid_of(folder, storage=["float16", "jpeg"], storage_settings={"jpeg": {"quality": 50}})
    views = {name: [key[2] for key in extracted_views(grid)] for name, grid in grids.items()}
    assert views == {"image": [ViewFolder(0)], "jpeg": [ViewFolder(0), EncodedFolder(JPEG, 0)]}
    layout = Layout(grids["jpeg"])
    encoded = layout.features("s_glyphs", "small", EncodedFolder(JPEG, 0))
    view = Layout(grids["image"]).features("s_glyphs", "small")
    assert encoded.parent == view.parent and view.name == "view0" and (view / "manifest.json").exists()
    by_storage = {cell.storage: cell for cell in cells(both)}
    assert Layout(both).read_by([by_storage["float16"]]) == [view]
    reads = Layout(both).reads(by_storage["jpeg"])
    assert [name.rsplit("/", 1)[1].split("-")[0] for name in reads[1]] == ["view0", "jpeg50"]
    manifests = [path / "manifest.json" for path in Layout(both).read_by(cells(both))]
    assert read_by(by_storage["jpeg"], [1], manifests) == manifests and len(manifests) == 2
    assert read_by(by_storage["float16"], [1], manifests) == manifests[:1]
    monkeypatch.setattr(PIL, "__version__", "0.1")
    assert Layout(grids["jpeg"]).features("s_glyphs", "small", EncodedFolder(JPEG, 0)) != encoded


def test_every_seed_stores_the_images_of_its_view(folder):
    two = small_grid(folder).model_dump()["backbone"] | {"views": 2}
    grid = grid_of(folder, backbone=two, storage="webp", storage_settings={"webp": {"lossless": True}})
    assert [key[2] for key in extracted_views(grid)] == [
        ViewFolder(1),
        ViewFolder(2),
        EncodedFolder(LOSSLESS, 1),
        EncodedFolder(LOSSLESS, 2),
    ]
    features = ensure_features(grid, "s_glyphs")
    assert torch.equal(features.encoded[LOSSLESS, 2].pooled, features.further_views[2].pooled)
    plain = grid_of(folder, backbone=two, storage="image")
    runs = [run_cell(features, cells(one)[0]) for one in (grid, plain)]
    assert runs[0]["matrix"] == runs[1]["matrix"]


# --- cells ---------------------------------------------------------------------------------------


def test_a_cell_replays_decoded_images_and_counts_their_files(folder, monkeypatch):
    """As often through the backbone as raw images; without loss, with the accuracy of raw images."""
    storages = {"jpeg": JPEG, "webp": LOSSLESS}
    setting = {"webp": {"lossless": True}}
    grid = grid_of(folder, storage=["image", *storages], storage_settings=setting, methods=["er", "derpp"])
    features, made = ensure_features(grid, "s_glyphs"), kept_memories(monkeypatch)
    images = glyphs(folder).train_images
    runs = {}
    for cell in cells(grid):
        runs[cell.method, cell.storage] = run_cell(features, cell)
        if cell.storage == "image":
            continue
        codec, memory = storages[cell.storage], made[-1]
        labels = 2 + (4 * 4 if cell.method == "derpp" else 0)
        for r in range(2):
            index = torch.cat([stored.index[r] for stored in memory.stored])
            files = [len(codec.encode(images[number])) for number in index]
            assert memory.episodic_bytes()[r] == sum(files) + labels * len(files)
            replayed = torch.cat([stored.x[r] for stored in memory.stored])
            assert torch.equal(replayed, features.encoded[codec, 0].pooled[index])
    for method in ("er", "derpp"):
        raw, jpeg, webp = (runs[method, storage] for storage in ("image", "jpeg", "webp"))
        assert raw["matrix"] == webp["matrix"]
        for name in ("backbone_passes", "train_flops", "samples_stored"):
            assert raw["costs"][name] == jpeg["costs"][name] == webp["costs"][name]
        assert raw["costs"]["episodic_bytes"] > jpeg["costs"]["episodic_bytes"]


# The published code's selection stores the first minibatch of a task even if its share does not hold it.
WITHIN = [name for name in SELECTIONS.names() if name != "batches"]


@pytest.mark.parametrize("unit", ["bytes", "total_bytes"])
@pytest.mark.parametrize("selection", WITHIN)
@pytest.mark.parametrize("method", ["er", "derpp"])
def test_a_budget_of_bytes_is_filled_with_files_and_never_exceeded(selection, method, unit):
    """What is left holds no further file: each takes at most 59 bytes, besides label and logits."""
    size = {"bytes": 12, "total_bytes": 2000}[unit]
    changes = {"storage": "jpeg", "storage_settings": {"quality": 75}, "selection": selection}
    if selection == "reservoir" and method == "derpp":
        changes["method_settings"] = {"alpha": 0.1, "beta": 0.5, "logits_at": "visit"}
    cell = make_cell(method, buffer=size, budget_unit=unit, seeds=[0, 1, 2], **changes)
    costs = run_cell(FEATURES, cell)["costs"]
    logits = 24 if method == "derpp" else 0
    totals = [
        held + learner if unit == "total_bytes" else held
        for held, learner in zip(costs["episodic_bytes"], costs["learner_bytes"], strict=True)
    ]
    total = {"bytes": 12 * (12 * 4 * 2 + 2 + logits), "total_bytes": size}[unit]
    shares = 1 if selection == "reservoir" else 3
    assert len(set(costs["episodic_bytes"])) > 1 or selection == "herding", "seeds store other files"
    for held in totals:
        assert total - shares * (59 + 2 + logits) < held <= total
    if unit == "total_bytes":
        assert max(costs["peak_bytes"]) <= size
    alone = run_cell(FEATURES, cell.model_copy(update={"seeds": [2]}))
    assert alone["costs"]["episodic_bytes"][0] == costs["episodic_bytes"][2]


@pytest.mark.parametrize("unit", ["slots", "floats"])
@pytest.mark.parametrize("selection", ["last", "reservoir", "herding"])
def test_other_budgets_count_samples(selection, unit):
    cell = make_cell("er", budget_unit=unit, storage="webp", storage_settings={"quality": 5}, buffer=6)
    plain = make_cell("er", budget_unit=unit, storage="pooled_float32", buffer=6)
    costs = [
        run_cell(FEATURES, one.model_copy(update={"selection": selection}))["costs"] for one in (cell, plain)
    ]
    assert costs[0]["samples_stored"] == costs[1]["samples_stored"]
    assert len(set(costs[0]["episodic_bytes"])) > 1 or selection == "herding", "files differ in size"


def test_a_reservoir_replays_what_it_counts(monkeypatch):
    """Its slots have the labels and vectors of the samples whose files it counts, whatever moved."""
    made = kept_memories(monkeypatch)
    changes = {"storage": "jpeg", "storage_settings": {"quality": 75}, "selection": "reservoir"}
    run_cell(FEATURES, make_cell("er", buffer=9, budget_unit="bytes", seeds=[3], **changes))
    (memory,) = made
    encoded, held = FEATURES.encoded[JPEG, 0], memory.samples_stored
    index = memory._index[0, :held]
    assert len(set(index.tolist())) == held > 5
    assert torch.equal(memory.replay.batch.x[0], encoded.pooled[index])
    assert torch.equal(memory.replay.batch.y[0], FEATURES.train_labels[index])
    assert memory.episodic_bytes() == [int(encoded.sizes[index].sum()) + 2 * held]


@given(
    costs=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=12), min_size=1, max_size=12),
    available=st.integers(30, 150),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=150, deadline=None)
def test_a_reservoir_of_files_holds_the_smallest_draws_that_fit(costs, available, seed):
    selection = Reservoir(10**6, torch.Generator().manual_seed(seed))
    slots: dict[int, int] = {}  # visit by slot
    for batch in costs:
        first = selection.seen
        placement = selection.placed(batch, available)
        slots |= {target: slots[slot] for slot, target in placement.moved.items()}
        slots |= {slot: first + n for n, slot in enumerate(placement.slots) if slot >= 0}
        slots = {slot: visit for slot, visit in slots.items() if slot < placement.held}
        assert sorted(slots) == list(range(placement.held))
    each = torch.tensor([cost for batch in costs for cost in batch])
    source = torch.Generator().manual_seed(seed)
    draws = torch.cat([torch.rand(len(batch), generator=source, dtype=torch.float64) for batch in costs])
    order = draws.argsort()
    fitting = order[each[order].cumsum(0) <= available]
    assert sorted(slots.values()) == sorted(fitting.tolist())


# --- refusals ------------------------------------------------------------------------------------

STORED = {"storage": "webp", "variants": ["plain"]}


@pytest.mark.reliability("encoded-images")
def test_encoded_images_are_refused_where_they_cannot_be_made(folder, monkeypatch):
    own = {"datasets": {"mine": {"source": "features", "path": "x.npz", "tasks": 2}}, "backbone": None}
    for change, message in (
        ({"storage_settings": {"webp": {"quality": 0}}}, "storage_settings.webp.quality: .* equal to 1 "),
        ({"storage_settings": {"webp": {"quality": 101}}}, "storage_settings.webp.quality: .* to 100 "),
        (
            {"storage_settings": {"webp": {"qualty": 9}}},
            "unknown key 'storage_settings.webp.qualty' .did you mean 'quality'",
        ),
        ({"variants": ["plain", "sharc"]}, "storage webp cannot be combined with variants sharc"),
        (own, "storage webp cannot be combined with data set mine: source features has no images"),
        ({"backbone": BASE["backbone"] | {"batch_norm": "drifting"}}, "storage webp .* batch_norm drifting"),
        ({"budget": {"unit": "nonzero"}}, "storage webp cannot be combined with budget.unit nonzero"),
    ):
        with pytest.raises(UserError, match=f"^config: {message}"):
            load_grid(BASE | STORED | change)
    grid = grid_of(folder, storage="webp")
    check_inputs(grid)
    monkeypatch.setattr("PIL.features.check", lambda name: name != "webp")
    with pytest.raises(UserError, match="^config: storage: webp needs a Pillow that was built with webp"):
        check_inputs(grid)
    check_inputs(grid_of(folder, storage="jpeg"))


@pytest.mark.reliability("encoded-images")
def test_a_budget_that_no_file_fits_is_refused():
    changes = {"budget_unit": "total_bytes", "storage": "jpeg", "storage_settings": {"quality": 75}}
    small = make_cell("er", buffer=330, **changes)
    with pytest.raises(UserError, match="holds no sample of task 1 of 3: its share is .*, one sample takes"):
        run_cell(FEATURES, small)
    with pytest.raises(UserError, match="a buffer of 330 holds no sample"):
        run_cell(FEATURES, small.model_copy(update={"selection": "reservoir"}))


def test_a_selection_without_files_is_refused_with_a_budget_of_bytes(monkeypatch):
    values = BASE | STORED | {"memory": {"selection": "reservoir"}, "methods": ["er"]}
    monkeypatch.setattr(SELECTIONS.get("reservoir"), "takes_files", StreamSelection.takes_files)
    load_grid(values)
    with pytest.raises(UserError, match="selection reservoir .* with storage webp in a budget of bytes"):
        load_grid(values | {"budget": {"unit": "bytes"}})


def test_damaged_or_foreign_features_are_refused(folder):
    grid = grid_of(folder, storage="jpeg")
    ensure_features(grid, "s_glyphs")
    layout = Layout(grid)
    view, encoded = layout.read_by(cells(grid))
    assert open_folders([view, encoded]).encoded[JPEG, 0].sizes.min() > 0
    with pytest.raises(UserError, match="lack the images of view 0 as jpeg75"):
        run_cell(open_features(view), cells(grid)[0])
    manifest = read_json(encoded / "manifest.json")
    for change, message in (
        ({"view": 1}, "are not of the images and backbone of the others"),
        ({"dataset": "0" * 64}, "are not of the images and backbone of the others"),
        ({"files": {}}, "is damaged"),
    ):
        write_json(encoded / "manifest.json", manifest | change)
        with pytest.raises(UserError, match=message):
            open_folders([view, encoded])
    write_json(encoded / "manifest.json", manifest)
    (encoded / "train_sizes.npy").write_bytes(b"short")
    with pytest.raises(UserError, match=r"train_sizes\.npy"):
        open_folders([view, encoded])
    shutil.rmtree(encoded)
    with pytest.raises(UserError, match="missing or incomplete"):
        open_folders([view, encoded])
    build_features(grid, "s_glyphs", "small", EncodedFolder(JPEG, 0))
    open_folders([view, encoded])


def test_registered_storages_name_their_codec():
    for name in ("jpeg", "webp"):
        kind = REPRESENTATIONS.get(name)
        assert kind.codec_of(kind.Settings()) == Codec(name, 75)
        assert kind.replays_images and kind.stores_encodings and kind.plans_exactly
    assert REPRESENTATIONS.get("image").codec_of(None) is None


# --- Snakemake -----------------------------------------------------------------------------------


@pytest.mark.pipeline
@pytest.mark.slow
def test_a_grid_stores_encoded_images(copy, monkeypatch):
    """One extraction beside the features of an earlier grid, which stay; then nothing is left to do."""
    values = yaml.safe_load((copy / "config/smoke.yaml").read_text())
    changes = {"methods": ["er"], "variants": ["plain"], "storage": ["image", "webp"]}
    changes |= {"results_dir": "results/mine", "buffers": ["40 kB"], "budget": {"unit": "total_bytes"}}
    changes |= {"storage_settings": {"webp": {"quality": 50}}}
    (copy / "mine.yaml").write_text(yaml.safe_dump(values | changes))
    before = sorted(copy.glob("data/features/*/*/*/manifest.json"))
    done = snakemake(copy, "runs", "--configfile", "mine.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    made = sorted(set(copy.glob("data/features/*/*/*/manifest.json")) - set(before))
    assert [path.parent.name.rsplit("-", 1)[0] for path in made] == ["webp50-view0"]
    runs = pd.read_csv(copy / "results/mine/runs.csv")
    assert runs["total_bytes"].max() <= 40_000
    stored = runs.groupby("storage")["samples_stored"].min()
    assert stored["webp"] > stored["image"] > 0
    again = snakemake(copy, "runs", "--configfile", "mine.yaml")
    assert again.returncode == 0 and "0 cells trained, 2 up to date" in again.stdout + again.stderr
    assert sorted(copy.glob("data/features/*/*/*/manifest.json")) == sorted([*before, *made])
