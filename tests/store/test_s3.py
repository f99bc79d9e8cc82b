"""A workdir on S3 when S3 has a bad day: no partial artifact is ever seen, and what can be repeated is."""

import functools
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import s3fs

from tests.faulty_s3 import Faults
from tests.miniature import HARDWARE, RECIPE, SOURCE, write_miniature
from tinygptv.cli.main import main
from tinygptv.data.upkeep.verify import verify
from tinygptv.errors import StorageError
from tinygptv.shapes.server import serve
from tinygptv.store import s3
from tinygptv.store.artifacts import MANIFEST, Manifest, Outcome, Store, sha256_of

NAME = "things/one@0"


@pytest.fixture
def workdir(faulty_s3_workdir: str) -> str:
    return faulty_s3_workdir


def build(folder: Path) -> Outcome:
    (folder / "shards").mkdir(exist_ok=True)
    for number in range(3):
        (folder / "shards" / f"{number}.tar").write_bytes(bytes([number]) * 5000)
    return Outcome(rows_in=3, rows_out=3)


def make(workdir: str) -> Any:
    return Store(workdir).make(NAME, "build", {}, [], build)


def elsewhere(workdir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The same workdir as another machine sees it."""
    monkeypatch.setenv("TINYGPTV_CACHE", str(tmp_path / "another machine"))
    return Store(workdir)


@pytest.mark.parametrize(
    "request_name",
    [f"PUT {NAME}/shards/1.tar", f"HEAD {NAME}/shards/1.tar", f"PUT {NAME}/{MANIFEST}", f"GET {NAME}/{MANIFEST}"],
)
def test_a_request_that_fails_for_a_moment_is_repeated(
    request_name: str, workdir: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.failing = {request_name: ["500", "500"]}
    made = make(workdir)
    store = elsewhere(workdir, tmp_path, monkeypatch)
    assert store.find(NAME) == made
    assert (store.folder(NAME) / "shards" / "1.tar").read_bytes() == b"\1" * 5000
    assert faults.failing[request_name] == []


def test_a_service_that_stays_away_leaves_no_artifact_and_the_next_attempt_completes_it(
    workdir: str, faults: Faults
) -> None:
    faults.failing = {f"PUT {NAME}/shards/2.tar": ["500"] * 100}
    with pytest.raises(StorageError, match=rf"uploading {NAME}/shards/2.tar: failed 5 times.*try again later"):
        make(workdir)
    assert Store(workdir).find(NAME) is None
    assert f"PUT {NAME}/{MANIFEST}" not in faults.asked
    faults.failing = {}
    kept = Store(workdir).make(NAME, "build", {}, [], lambda folder: pytest.fail("built again, only to upload"))
    assert kept == Store(workdir).find(NAME)


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are uploaded in parts of 5 MiB, the least that S3 takes, and not only from 100 MB on."""
    whole = s3fs.S3FileSystem._put_file
    monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", functools.partialmethod(whole, chunksize=5 << 20))


def make_large(workdir: str) -> Manifest:
    def build(folder: Path) -> Outcome:
        (folder / "large.tar").write_bytes(bytes(range(256)) * (11 << 12))
        return Outcome()

    return Store(workdir).make(NAME, "build", {}, [], build)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize(
    "failing",
    [
        {"POST": ["500"]},
        {"PUT": ["500"]},
        {"PUT": ["goes well", "goes well", "500", "500"]},
        {"POST": ["goes well", "500"]},
        {"POST": ["goes well", "answer lost"]},
    ],
    ids=["begin", "first part", "last part", "completion", "answer to completion"],
)
def test_an_upload_in_parts_that_fails_anywhere_is_made_again(
    failing: dict[str, list[str]], workdir: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.failing = {f"{method} {NAME}/large.tar": left for method, left in failing.items()}
    made = make_large(workdir)
    assert sum(request == f"POST {NAME}/large.tar" for request in faults.asked) >= 2
    assert not any(faults.failing.values())
    fetched = elsewhere(workdir, tmp_path, monkeypatch).folder(NAME) / "large.tar"
    assert sha256_of(fetched) == made.files["large.tar"].sha256


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_an_upload_in_parts_that_never_succeeds_leaves_nothing_visible(
    method: str, workdir: str, faults: Faults
) -> None:
    faults.failing = {f"{method} {NAME}/large.tar": ["goes well"] + ["500"] * 100}
    with pytest.raises(StorageError, match=f"uploading {NAME}/large.tar: failed 5 times"):
        make_large(workdir)
    assert s3fs.S3FileSystem(use_listings_cache=False).find(f"{workdir}/{NAME}") == []


def test_a_listing_that_fails_for_a_moment_is_asked_for_again(workdir: str, faults: Faults) -> None:
    make(workdir)
    faults.failing = {"GET ": ["500", "500"]}
    assert Store(workdir).names("things/") == [NAME]
    assert faults.failing["GET "] == []


FAULTS_IN_TURN = ["500", "500", "", "", "", "", "cut", "", "", "", "", "answer lost", "", "", "", ""]
"""A file takes two requests at most, each failing at most twice before four go well: five attempts are enough."""


def test_pairs_are_curated_in_a_storm_as_on_a_quiet_disk(
    workdir: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = write_miniature(tmp_path / "mini", {"stage1": 2})
    with serve(tmp_path / "mini") as address:
        for name, value in (environment | {"TINYGPTV_BASE_URL": address}).items():
            monkeypatch.setenv(name, value)
        curate = ["curate", "--source", SOURCE, "--recipe", RECIPE, "--hardware", HARDWARE, "--workdir"]
        assert main([*curate, str(tmp_path / "quiet")]) == 0
        faults.others = FAULTS_IN_TURN
        assert main([*curate, workdir]) == 0
    faults.others = ()
    quiet, disturbed = (json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    assert [quiet[key] for key in ("rows_in", "rows_out", "drops")] == [
        disturbed[key] for key in ("rows_in", "rows_out", "drops")
    ]
    assert verify(workdir).damages == []
    local, remote = Store(str(tmp_path / "quiet")), elsewhere(workdir, tmp_path, monkeypatch)
    for place in ("raw/", "filtered/"):
        (name,) = remote.names(place)
        assert local.names(place) == [name]
        manifest = remote.find(name)
        assert manifest is not None
        for file in ("00000.tar", "sidecar.parquet"):
            assert sha256_of(remote.folder(name) / file) == sha256_of(local.folder(name) / file)
        puts = [request.removeprefix("PUT ") for request in faults.asked if request.startswith(f"PUT {name}/")]
        assert {f"{name}/{file}" for file in manifest.files} == set(puts[: puts.index(f"{name}/{MANIFEST}")])
        assert set(puts[puts.index(f"{name}/{MANIFEST}") :]) == {f"{name}/{MANIFEST}"}


def test_the_manifest_is_the_last_object_and_nothing_is_put_after_it(workdir: str, faults: Faults) -> None:
    make(workdir)
    puts = [request for request in faults.asked if request.startswith(f"PUT {NAME}")]
    assert puts.index(f"PUT {NAME}/{MANIFEST}") == len(puts) - 1 == 3


def test_a_process_killed_while_it_uploads_leaves_nothing_visible_and_blocks_nobody(
    workdir: str, faults: Faults
) -> None:
    faults.failing = {f"PUT {NAME}/shards/2.tar": ["held"]}
    process = multiprocessing.get_context("spawn").Process(target=make, args=(workdir,))
    process.start()
    assert faults.held.wait(120)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert Store(workdir).find(NAME) is None
    faults.released.set()
    made = make(workdir)
    assert sorted(made.files) == [f"shards/{number}.tar" for number in range(3)]


def test_a_listing_that_lags_cannot_make_a_fetched_artifact_incomplete(
    workdir: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(workdir)
    faults.hidden = {f"{NAME}/shards/1.tar", f"{NAME}/{MANIFEST}"}
    store = elsewhere(workdir, tmp_path, monkeypatch)
    assert store.names("things/") == []
    assert store.find(NAME) is not None
    fetched = {str(path.relative_to(store.folder(NAME))) for path in store.folder(NAME).rglob("*.*")}
    assert fetched == {*(f"shards/{number}.tar" for number in range(3)), MANIFEST}


def test_a_body_cut_short_is_fetched_again_and_never_taken_for_the_whole(
    workdir: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(workdir)
    faults.failing = {f"GET {NAME}/shards/1.tar": ["cut", "cut"]}
    folder = elsewhere(workdir, tmp_path, monkeypatch).folder(NAME)
    assert (folder / "shards" / "1.tar").stat().st_size == 5000
    assert faults.failing[f"GET {NAME}/shards/1.tar"] == []


def test_a_discarded_artifact_is_gone_at_once_even_if_its_removal_breaks_off(workdir: str, faults: Faults) -> None:
    make(workdir)
    faults.failing = {f"DELETE {NAME}/shards/1.tar": ["500"] * 100}
    with pytest.raises(StorageError, match=r"removing things/one@0/shards/1\.tar"):
        Store(workdir).discard(NAME)
    assert Store(workdir).find(NAME) is None
    faults.failing = {}
    assert make(workdir) == Store(workdir).find(NAME)
    Store(workdir).discard(NAME)
    assert s3fs.S3FileSystem().find(f"{workdir}/{NAME}") == []


def test_a_conditional_write_whose_answer_was_lost_is_recognised(workdir: str, faults: Faults) -> None:
    faults.failing = {"PUT list.txt": ["answer lost"]}
    Store(workdir).update("list.txt", lambda before: f"{before or ''}mine\n")
    assert Store(workdir).read("list.txt") == "mine\n"


def test_a_lease_is_free_again_when_it_has_expired_and_not_before(
    workdir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held_until(expires: float) -> None:
        held = {"holder": "process 1 on far", "host": "far", "pid": 1, "doing": "refreshing it", "token": "x"}
        Store(workdir).update(".leases/refresh/web.json", lambda _: json.dumps(held | {"expires": expires}))

    held_until(time.time() + 50)
    with (
        pytest.raises(StorageError, match=r"process 1 on far is refreshing it \(its lease expires in \d+ s"),
        Store(workdir).exclusive("refresh/web", "refreshing it"),
    ):
        pytest.fail("both hold it")
    held_until(time.time() - 1)
    with Store(workdir).exclusive("refresh/web", "refreshing it"):
        pass


def test_what_was_made_under_a_lost_lease_is_not_published(workdir: str) -> None:
    store = Store(workdir)

    def build_while_another_takes_over(folder: Path) -> Outcome:
        store.update(f".leases/{NAME}.json", lambda _: "{}")
        time.sleep(0.1)
        return build(folder)

    with pytest.MonkeyPatch.context() as quick, pytest.raises(StorageError, match="its lease was lost"):
        quick.setattr(s3, "LEASE_SECONDS", 0.05)
        store.make(NAME, "build", {}, [], build_while_another_takes_over)
    assert store.find(NAME) is None
