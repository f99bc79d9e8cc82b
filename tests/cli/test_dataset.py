"""The verbs about data that is there, from the command line: what they print and how they end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.miniature import DEAD_LINKS, PICTURES, RECIPE, SOURCE, write_miniature
from tinygptv.cli import dataset
from tinygptv.cli.main import main
from tinygptv.data.forget.tombstones import tombstones
from tinygptv.shapes.server import serve
from tinygptv.store.artifacts import Store

GONE = "__BASE_URL__/images/03.png"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workdir with two versions of the miniature's source: all pictures, then all but two."""
    folder = tmp_path_factory.mktemp("verbs")
    environment = write_miniature(folder / "mini", {"stage1": 2})
    with pytest.MonkeyPatch.context() as monkeypatch, serve(folder / "mini") as address:
        for name, value in (environment | {"TINYGPTV_BASE_URL": address}).items():
            monkeypatch.setenv(name, value)
        options = ["--source", SOURCE, "--recipe", RECIPE, "--workdir", str(folder / "work")]
        assert main(["refresh", *options]) == 0
        table = folder / "mini" / "pairs.jsonl"
        table.write_text("".join(table.read_text().splitlines(keepends=True)[2:]))
        assert main(["refresh", *options]) == 0
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:5]))
        assert main(["refresh", *options]) == 1
        yield folder / "work"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, workdir: Path) -> list[str]:
    assert main([*arguments, "--workdir", str(workdir)]) == 0
    return capsys.readouterr().out.splitlines()


def test_versions_are_listed_and_the_current_one_is_marked(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = printed(capsys, "versions", workdir=workdir)
    assert first.startswith(f"{SOURCE}@1 ") and not first.endswith("current")
    assert second.startswith(f"{SOURCE}@2 ") and second.endswith("current")
    assert f"{PICTURES - 2} samples" in second


def test_a_workdir_without_versions_says_how_there_come_to_be_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nothing is published; `tinygptv refresh` publishes" in printed(capsys, "versions", workdir=tmp_path)[0]


def test_a_difference_is_counted_and_its_keys_are_listed(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "diff", f"{SOURCE}@1", f"{SOURCE}@2", workdir=workdir)
    assert lines[:3] == ["0 added", "2 removed", "0 changed"]
    assert sorted(line.split("/")[-1] for line in lines[3:]) == ["00.png", "01.png"]
    backwards = printed(capsys, "diff", f"{SOURCE}@2", f"{SOURCE}@1", workdir=workdir)
    assert backwards[:3] == ["2 added", "0 removed", "0 changed"]


def test_a_long_difference_is_cut_unless_all_is_asked_for(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_SHOWN_KEYS", 1)
    both = (f"{SOURCE}@1", f"{SOURCE}@2")
    assert printed(capsys, "diff", *both, workdir=workdir)[4:] == ["… and 1 more; --all lists them"]
    assert len(printed(capsys, "diff", *both, "--all", workdir=workdir)) == 5


def test_an_unknown_version_is_refused_with_the_nearest_one(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", f"{SOURCE}@1", f"{SOURCE}@9", "--workdir", str(workdir)]) == 2
    assert f"Did you mean '{SOURCE}@" in capsys.readouterr().err


def test_a_card_is_where_it_says(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, facts = printed(capsys, "card", f"{SOURCE}@1", workdir=workdir)
    assert "</html>" in Path(page).read_text() and f'"rows_in": {PICTURES + DEAD_LINKS}' in Path(facts).read_text()


def test_a_card_of_what_is_no_version_is_refused(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = Store(str(workdir)).names("raw/")[0]
    assert main(["card", raw, "--workdir", str(workdir)]) == 2
    assert "want source@number, or the name of a filtered artifact" in capsys.readouterr().err


def test_a_refused_refresh_ends_with_one_and_names_the_check(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mini = workdir.parent / "mini"
    with serve(mini) as address:
        monkeypatch.setenv("TINYGPTV_BASE_URL", address)
        options = ["--source", SOURCE, "--recipe", RECIPE, "--workdir", str(workdir)]
        assert main(["refresh", *options]) == 1
    error = capsys.readouterr().err
    assert f"DataError: {SOURCE}: refused, version 2 stays current: shrunk: 1 rows" in error


def test_forgetting_lists_what_holds_it_and_a_dry_run_writes_nothing_down(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["forget", "--url", GONE, "--why", "asked for by its owner"]
    would = printed(capsys, *request, "--dry-run", workdir=workdir)
    assert would[0] == f"would forget what url {GONE} names:"
    assert sum("(version 2): holds 1" in line for line in would) == 2
    assert tombstones(Store(str(workdir))) == []
    done = printed(capsys, *request, workdir=workdir)
    assert done[0] == f"tombstone 1: url {GONE}; masked from now on, left out of what is made later"
    assert done[1:] == would[1:]
    nothing = printed(capsys, "forget", "--domain", "elsewhere.net", "--why", "test", "--dry-run", workdir=workdir)
    assert nothing[-1] == "  nothing here holds or saw it"


def test_a_request_names_exactly_one_thing(workdir: Path) -> None:
    for named in ([], ["--url", "http://a/b", "--domain", "a"]):
        with pytest.raises(SystemExit) as left:
            main(["forget", *named, "--why", "test", "--workdir", str(workdir)])
        assert left.value.code == 2
