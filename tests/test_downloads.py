"""Archives from a server (a local one replaces the network), a mirror or an earlier download."""

import functools
import hashlib
import http.server
import shutil
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torchvision.datasets
import yaml
from archive_factory import write_cifar, write_tiny
from pydantic import ValidationError
from snake import copy_project, snakemake

from sharc_core.common.errors import Missing, UserError
from sharc_core.datasets import SOURCES, download, open_prepared
from sharc_core.grid.loading import load_grid
from sharc_core.stages.layout import Layout
from sharc_core.stages.preflight import check_inputs

NAME = "cifar-10-python.tar.gz"
ORIGINAL = "c58f30108f718f92721af3b95e74349a"


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder, truncated or slowly if configured."""

    cut = 0
    slow = 0.0

    def copyfile(self, source, output):
        content = source.read()
        content = content[: len(content) - self.cut]
        for start in range(0, len(content), 2**16):
            output.write(content[start : start + 2**16])
            time.sleep(self.slow)
        self.close_connection = True

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def internet(tmp_path, monkeypatch):
    """Point CIFAR-10's address at a local server. `source` makes a source without a mirror."""
    written = write_cifar(tmp_path / "served", "cifar10")
    handler = type("Handler", (Server,), {})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=tmp_path / "served")
    )
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/{NAME}"
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", address)
    checksum = written.checksum
    yield SimpleNamespace(
        written=written,
        checksum=checksum,
        handler=handler,
        asked=server.asked,
        address=address,
        downloads=tmp_path / "data/downloads",
        source=lambda **values: cifar(tmp_path, **({"checksum": checksum} | values)),
    )
    server.shutdown()
    server.server_close()


def cifar(folder: Path, mirror: Path | None = None, **values):
    kind = SOURCES.get("cifar10")
    return kind(kind.Settings(**values), folder / "data", mirror)


def refused(action, message: str, kind: type = UserError) -> None:
    with pytest.raises(kind, match=message) as caught:
        action()
    assert "\n" not in str(caught.value)


# --- the network -----------------------------------------------------------------------------------


def test_an_archive_is_downloaded_once(internet, tmp_path):
    said = []
    internet.source().prepare(tmp_path / "out", said.append)
    internet.written.check(open_prepared(tmp_path / "out"))
    assert said[0] == f"downloading {NAME} from {internet.address}"
    assert [p.name for p in internet.downloads.iterdir()] == [NAME]
    assert (internet.downloads / NAME).stat().st_mode & 0o777 == 0o644
    asked = len(internet.asked)
    internet.source().prepare(tmp_path / "again")
    internet.written.check(open_prepared(tmp_path / "again"))
    assert len(internet.asked) == asked > 0


def test_sha256_checksum_is_accepted(internet, tmp_path):
    checksum = hashlib.sha256(internet.written.path.read_bytes()).hexdigest()
    internet.source(checksum=checksum).prepare(tmp_path / "out")
    internet.written.check(open_prepared(tmp_path / "out"))
    refused(
        lambda: internet.source(checksum=checksum[::-1]).prepare(tmp_path / "other"),
        rf"is not {NAME}: [\d,]+ bytes whose sha256 is {checksum}, expected {checksum[::-1]}: delete",
    )


@pytest.mark.reliability("damaged-archive")
def test_what_is_not_the_archive_is_not_kept(internet, tmp_path):
    size = internet.written.path.stat().st_size
    message = (
        rf"what {internet.address} sent is not {NAME} \(170 MB\): {size:,} bytes whose md5 is "
        rf"{internet.checksum}, expected {ORIGINAL}: nothing was kept, try again later$"
    )
    refused(lambda: internet.source(checksum=None).prepare(tmp_path / "out"), message)
    assert list(internet.downloads.iterdir()) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.reliability("damaged-archive")
def test_a_connection_that_breaks_off_leaves_nothing(internet, tmp_path):
    internet.handler.cut = 1000
    left = internet.written.path.stat().st_size - 1000
    refused(lambda: internet.source().prepare(tmp_path / "out"), f"is not {NAME}: {left:,} bytes whose md5")
    assert list(internet.downloads.iterdir()) == []
    internet.handler.cut = 0
    internet.source().prepare(tmp_path / "out")
    internet.written.check(open_prepared(tmp_path / "out"))


def test_long_download_reports_progress(internet, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SECONDS_BETWEEN_LINES", 0.02)
    internet.handler.slow = 0.1
    said = []
    internet.source().prepare(tmp_path / "out", said.append)
    assert any(line.startswith("received 0 MB") for line in said)


REMEDY = r"put that file into .*data/downloads, or into a folder that the grid file names as mirror$"


@pytest.mark.reliability("no-network")
def test_offline_error_says_where_to_put_the_archive(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/{NAME}"
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", address)
    source = cifar(tmp_path)
    source.check()  # the check does not use the network
    message = rf"cannot download {NAME} \(170 MB\) from {address} \(.*refused\): " + REMEDY
    refused(lambda: source.prepare(tmp_path / "out"), message)
    # the error mentions a file with a similar name
    (tmp_path / "data/downloads/cifar-10-python.tgz").write_bytes(b"")
    refused(lambda: source.prepare(tmp_path / "out"), r"refused\), only cifar-10-python\.tgz: put that file")


def test_a_missing_page_is_one_line(internet, tmp_path):
    internet.written.path.unlink()
    refused(
        lambda: internet.source().prepare(tmp_path / "out"),
        r"cannot download .*\(File not found\): " + REMEDY,
    )


@pytest.mark.reliability("no-network")
def test_silent_server_times_out(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/{NAME}"
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", address)
        refused(
            lambda: cifar(tmp_path).prepare(tmp_path / "out"), r"cannot download .*\(timed out\): " + REMEDY
        )
    assert socket.getdefaulttimeout() is None


@pytest.mark.reliability("disk-too-small")
def test_too_small_a_disk_is_told_before_the_download(internet, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=300 * 10**6))
    # 170.5 MB of archive and 184.8 MB of images
    message = (
        rf"disk too small: {NAME} and its prepared images need 355 MB in .*data, 300 MB are free: make room"
    )
    refused(lambda: cifar(tmp_path).prepare(tmp_path / "out"), message)
    assert internet.asked == []


# --- the mirror ------------------------------------------------------------------------------------


@pytest.fixture
def mirror(internet):
    """The folder of the archive. `internet.asked` lists the requests to the server."""
    return internet.written.path.parent


def test_a_mirror_stands_for_the_network_and_is_read_in_place(internet, mirror, tmp_path):
    source = internet.source(mirror=mirror)
    source.check()
    source.prepare(tmp_path / "out")
    internet.written.check(open_prepared(tmp_path / "out"))
    assert internet.asked == []
    assert not internet.downloads.exists()


@pytest.mark.reliability("incomplete-mirror")
@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("cifar-10-python.tgz", ", only cifar-10-python.tgz"),
        ("cifar10.tar.gz", ", only cifar10.tar.gz"),
        ("x.zip", ""),
    ],
)
def test_a_mirror_without_the_archive_is_found_before_any_job(internet, mirror, tmp_path, name, similar):
    internet.written.path.rename(mirror / name)
    message = (
        rf"^the mirror {mirror} has no {NAME}{similar}: put {internet.address} there under its own name$"
    )
    source = internet.source(mirror=mirror)
    for action in (source.check, lambda: source.prepare(tmp_path / "out")):
        refused(action, message, Missing)
    assert internet.asked == []


def test_an_earlier_download_will_do_where_the_mirror_has_none(internet, mirror, tmp_path):
    internet.downloads.mkdir(parents=True)
    internet.written.path.rename(internet.downloads / NAME)
    source = internet.source(mirror=mirror)
    source.check()
    source.prepare(tmp_path / "out")


def altered(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.reliability("damaged-archive")
@pytest.mark.parametrize("how", [altered, lambda content: content[:-1]], ids=["altered", "cut short"])
@pytest.mark.parametrize("place", ["mirror", "downloads"])
def test_damage_is_found_before_anything_is_read(internet, mirror, tmp_path, how, place):
    path = internet.written.path
    if place == "downloads":
        internet.downloads.mkdir(parents=True)
        path = path.rename(internet.downloads / NAME)
    path.write_bytes(how(path.read_bytes()))
    source = internet.source(mirror=mirror if place == "mirror" else None)
    message = (
        rf"{path} is not {NAME}: [\d,]+ bytes whose md5 is .{{32}}, expected {internet.checksum}: "
        rf"delete {path} and get it again from {internet.address}, or state its checksum if it was repacked"
    )
    refused(lambda: source.prepare(tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()
    assert internet.asked == []


def test_the_originals_size_is_known_and_checked_before_any_job(internet, mirror):
    size = internet.written.path.stat().st_size
    message = (
        rf"{NAME} is cut short: it has {size:,} bytes, the original 170,498,071: delete .* and get it again"
    )
    refused(internet.source(mirror=mirror, checksum=None).check, message)


def test_file_that_is_no_archive_gives_a_one_line_error(internet, mirror, tmp_path):
    internet.written.path.write_bytes(b"<html>not found</html>")
    checksum = internet.written.checksum  # the checksum of the page
    source = internet.source(mirror=mirror, checksum=checksum)
    refused(lambda: source.prepare(tmp_path / "out"), rf"{NAME} cannot be read, it is corrupt or cut short")


@pytest.mark.parametrize("value", ["", "abc", "g" * 32, "a" * 40, 5])
def test_a_checksum_is_an_md5_or_a_sha256(value):
    with pytest.raises(ValidationError):
        SOURCES.get("cifar10").Settings(checksum=value)


# --- planning without the archives -----------------------------------------------------------------


def test_identity_follows_the_checksum_and_needs_no_archive(tmp_path, monkeypatch):
    identities = []
    for checksum in (None, "a" * 32, "b" * 32):
        source = cifar(tmp_path, checksum=checksum)
        monkeypatch.setattr(type(source), "prepare", lambda *a: pytest.fail("prepared"))
        identities.append(source.identity())
    assert identities[0]["checksum"] == ORIGINAL
    assert len({i["checksum"] for i in identities}) == 3
    assert not (tmp_path / "data").exists()
    assert len(SOURCES.get("tiny_imagenet")(source.Settings(), tmp_path).identity()["checksum"]) == 32


def test_how_an_archive_was_got_changes_no_name(tmp_path):
    grid = GRID | {"datasets": {"s_cifar10": {"source": "cifar10", "tasks": 5}}, "data_dir": str(tmp_path)}
    names = {Layout(load_grid(grid | more)).prepared("s_cifar10") for more in ({}, {"mirror": str(tmp_path)})}
    assert len(names) == 1


GRID = {
    "datasets": {
        "s_cifar10": {"source": "cifar10", "tasks": 5},
        "s_cifar100": {"source": "cifar100", "tasks": 20},
        "s_mini": {"source": "mini_imagenet", "tasks": 20},
        "s_tiny": {"source": "tiny_imagenet", "tasks": 10},
    },
    "backbone": {"arch": "resnet_small", "weights": "pretrain", "image_size": 32},
    "methods": ["sgd"],
    "seeds": [0],
}


def test_planning_tells_what_is_missing_and_running_refuses(tmp_path):
    (tmp_path / "mirror").mkdir()
    places = {"data_dir": str(tmp_path / "data"), "results_dir": str(tmp_path / "out")}
    grid = load_grid(GRID | places | {"mirror": str(tmp_path / "mirror")})
    said = []
    check_inputs(grid, said.append, planning=True)
    assert len(said) == 4
    assert all(line.startswith("warning: ") for line in said)
    refused(
        lambda: check_inputs(grid),
        rf"config: datasets\.s_cifar10: the mirror .* has no {NAME} \(170 MB\): put ",
    )
    grid = load_grid(GRID | places)
    refused(
        lambda: check_inputs(grid), r"config: datasets\.s_mini: mini-ImageNet .* has no official download"
    )


@pytest.mark.reliability("seen-classes")
def test_pretraining_on_the_streams_classes_is_refused(tmp_path):
    """Tiny-ImageNet and mini-ImageNet share classes; the CIFARs share none."""
    for pretraining, stream, shared in (
        ("tiny_imagenet", "s_mini", 25),
        ("mini_imagenet", "s_tiny", 25),
        ("cifar100", "s_cifar100", 100),
        ("cifar100", "s_cifar10", 0),
    ):
        backbone = GRID["backbone"] | {"pretrain": {"dataset": {"source": pretraining}}}
        grid = GRID | {"datasets": {stream: GRID["datasets"][stream]}, "backbone": backbone}
        grid = load_grid(grid | {"data_dir": str(tmp_path / "data"), "results_dir": str(tmp_path / "out")})
        if shared:
            message = rf"shares {shared} classes with data set {stream} \(for example "
            refused(functools.partial(check_inputs, grid, print, planning=True), message)
        else:
            check_inputs(grid, print, planning=True)


@pytest.mark.reliability("no-network")
@pytest.mark.pipeline
def test_a_dry_run_needs_no_archive_and_a_run_does(tmp_path):
    copy_project(tmp_path)
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    done = snakemake(tmp_path, "-n", "--configfile", "grid.yaml")
    assert done.returncode == 0, done.stdout
    assert "warning: mini-ImageNet" in done.stdout
    for name in GRID["datasets"]:
        assert f"wildcards: data={GRID['datasets'][name]['source']}-" in done.stdout
    done = snakemake(tmp_path, "--configfile", "grid.yaml")
    assert done.returncode == 1
    assert "error: config: datasets.s_mini: mini-ImageNet" in done.stdout
    assert "Traceback" not in done.stdout


def test_tiny_imagenet_comes_the_same_way(internet, tmp_path, monkeypatch):
    written = write_tiny(internet.written.path.parent)
    kind = SOURCES.get("tiny_imagenet")
    address = internet.address.rsplit("/", 1)[0] + f"/{written.path.name}"
    original = kind.original
    monkeypatch.setattr(kind, "original", lambda self: download.replace(original(self), url=address))
    kind(kind.Settings(checksum=written.checksum), tmp_path / "data").prepare(tmp_path / "out")
    written.check(open_prepared(tmp_path / "out"))
    assert set(internet.asked) == {f"/{written.path.name}"}
