"""An artifact is complete or absent, and is made once."""

import errno
import multiprocessing
from pathlib import Path

import pytest

from tinygptv.errors import DataError, DefinitionError, StorageError
from tinygptv.store.artifacts import MANIFEST, Outcome, Store, artifact_name, storage_errors


def build_one_file(folder: Path) -> Outcome:
    (folder / "data.txt").write_text("hello")
    return Outcome(rows_in=3, rows_out=2, drops={"bad": 1})


def make(store: Store, name: str = "things/one@0") -> object:
    return store.make(name, "build", {"a": 1}, [], build_one_file)


def test_a_made_artifact_is_found_with_its_counts_and_hashes(store: Store) -> None:
    make(store)
    manifest = store.find("things/one@0")
    assert manifest is not None
    assert (manifest.rows_in, manifest.rows_out, manifest.drops) == (3, 2, {"bad": 1})
    assert manifest.files["data.txt"].bytes == 5
    assert (store.folder("things/one@0") / "data.txt").read_text() == "hello"


def test_an_artifact_is_built_only_once(store: Store) -> None:
    first = make(store)
    assert store.make("things/one@0", "build", {}, [], lambda folder: pytest.fail("built again")) == first


def test_a_build_that_fails_leaves_nothing_under_the_final_name(store: Store) -> None:
    def fail(folder: Path) -> Outcome:
        (folder / "half.txt").write_text("half")
        raise DataError("no")

    with pytest.raises(DataError):
        store.make("things/one@0", "build", {}, [], fail)
    assert store.find("things/one@0") is None
    assert not (store.local_root / "things" / "one@0").exists()


def test_a_build_that_refuses_to_begin_leaves_no_attempt_to_go_on_from(store: Store) -> None:
    def refuse(folder: Path) -> Outcome:
        raise DefinitionError("too little memory")

    with pytest.raises(DefinitionError):
        store.make("things/one@0", "build", {}, [], refuse)
    assert not store.draft("things/one@0").exists()


def test_an_interrupted_build_finds_its_draft_again(store: Store) -> None:
    def interrupted(folder: Path) -> Outcome:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.make("things/one@0", "build", {}, [], interrupted)
    manifest = store.make("things/one@0", "build", {}, [], lambda folder: Outcome())
    assert list(manifest.files) == ["half.txt"]


def test_a_folder_without_a_manifest_is_not_an_artifact(store: Store) -> None:
    (store.local_root / "things" / "one@0").mkdir(parents=True)
    assert store.find("things/one@0") is None
    with pytest.raises(DataError, match="no such artifact"):
        store.folder("things/one@0")


def test_a_damaged_manifest_is_named(store: Store) -> None:
    make(store)
    (store.folder("things/one@0") / MANIFEST).write_text("{}")
    with pytest.raises(DataError, match="not a manifest"):
        store.find("things/one@0")


def test_the_name_follows_the_definition_and_the_parents_but_not_their_order() -> None:
    name = artifact_name("filtered/a-b", {"rule": 1}, ["raw/x@1", "raw/y@2"])
    assert name == artifact_name("filtered/a-b", {"rule": 1}, ["raw/y@2", "raw/x@1"])
    assert name != artifact_name("filtered/a-b", {"rule": 2}, ["raw/x@1", "raw/y@2"])
    assert name != artifact_name("filtered/a-b", {"rule": 1}, ["raw/x@1"])


def _hold(
    workdir: str, started: "multiprocessing.synchronize.Event", stop: "multiprocessing.synchronize.Event"
) -> None:
    def build(folder: Path) -> Outcome:
        started.set()
        stop.wait(30)
        return Outcome()

    Store(workdir).make("things/one@0", "build", {}, [], build)


def test_two_processes_never_build_the_same_artifact_at_once(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    started, stop = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(store.workdir, started, stop))
    other.start()
    try:
        assert started.wait(10)
        with pytest.raises(StorageError, match=r"things/one@0: process \d+ on .* is making it"):
            make(store)
    finally:
        stop.set()
        other.join(10)
    assert store.find("things/one@0") is not None


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permission denied"), (errno.EROFS, "read-only")],
)
def test_refusals_of_the_file_system_say_what_to_do(code: int, message: str) -> None:
    with pytest.raises(StorageError, match=f"/somewhere: .*{message}"), storage_errors("/somewhere"):
        raise OSError(code, "no")


def test_a_workdir_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a part of this path is a file"):
        make(Store(str(tmp_path / "file" / "workdir")))


def test_names_lists_only_complete_artifacts(store: Store) -> None:
    make(store, "things/one@0")
    make(store, "things/two@0")
    (store.local_root / "things" / "three@0").mkdir()
    assert store.names("things/") == ["things/one@0", "things/two@0"]


def test_an_artifact_made_on_s3_is_found_and_fetched_by_another_machine(
    s3_workdir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(Store(s3_workdir))
    monkeypatch.setenv("TINYGPTV_CACHE", str(tmp_path / "cache of another machine"))
    store = Store(s3_workdir)
    assert store.find("things/one@0") == made
    assert (store.folder("things/one@0") / "data.txt").read_text() == "hello"
    assert store.names("things/") == ["things/one@0"]


def test_a_workdir_at_an_unknown_service_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"workdir 'gs://bucket': want a path or s3://"):
        Store("gs://bucket")


@pytest.mark.parametrize("where", ["local disk", "S3"])
def test_a_document_is_changed_by_many_without_losing_a_change(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    workdir = request.getfixturevalue("s3_workdir") if where == "S3" else str(tmp_path)
    store, disturbed = Store(workdir), []

    def append(text: str | None) -> str:
        if not disturbed:
            disturbed.append(Store(workdir).update("notes/list.txt", lambda before: f"{before or ''}other\n"))
        return f"{text or ''}mine\n"

    store.update("notes/list.txt", append)
    assert store.read("notes/list.txt") == "other\nmine\n"
    assert store.read("notes/absent.txt") is None


@pytest.mark.parametrize("where", ["local disk", "S3"])
def test_what_is_done_alone_names_who_does_it_and_is_free_afterwards(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    workdir = request.getfixturevalue("s3_workdir") if where == "S3" else str(tmp_path)
    with Store(workdir).exclusive("refresh/web", "refreshing it") as check:
        check()
        with (
            pytest.raises(StorageError, match=r"refresh/web: process \d+ on .* is refreshing it"),
            Store(workdir).exclusive("refresh/web", "refreshing it"),
        ):
            pytest.fail("both hold it")
    with Store(workdir).exclusive("refresh/web", "refreshing it"):
        pass
