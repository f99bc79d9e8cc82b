"""A mixture gathers its components, counts what it leaves out, and finds every image again."""

import json
from pathlib import Path

import pytest
import yaml

from tinygptv import catalog
from tinygptv.data.mixtures.mixing import MixedSamples, mix
from tinygptv.data.pictures.pixels import ImageReader
from tinygptv.errors import DataError, DefinitionError
from tinygptv.shapes.scenes import draw, scene
from tinygptv.shapes.tables import jpeg
from tinygptv.store.artifacts import Manifest, Store

TINY = [name for name in catalog.names("mixture") if name.startswith("tiny_")]


@pytest.fixture
def define(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for definitions of a test's own, and `data:` pointing at another for their files."""
    for folder in ("sources", "mixtures", "files/image"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv(catalog.OWN_DEFINITIONS, str(tmp_path))
    monkeypatch.setenv("TINYGPTV_DATA", str(tmp_path / "files"))
    return tmp_path


def write_mixture(folder: Path, *components: dict[str, object]) -> None:
    (folder / "mixtures" / "blend.yaml").write_text(
        yaml.safe_dump({"about": "made up", "draw": "per_sample", "components": list(components)})
    )


def write_align(folder: Path, captions: dict[str, str], images: int) -> None:
    """A cc_sbu_align source of these captions, the first `images` of which have a picture."""
    for number in list(captions)[:images]:
        (folder / "files" / "image" / f"{number}.jpg").write_bytes(jpeg(draw(scene("train", int(number)), 16)))
    records = [{"image_id": number, "caption": caption} for number, caption in captions.items()]
    (folder / "files" / "filter_cap.json").write_text(json.dumps({"annotations": records}))
    definition = {
        "kind": "annotations",
        "about": "made up",
        "licence": "none",
        "format": "cc_sbu_align",
        "files": {"annotations": "data:filter_cap.json"},
        "images": "data:image",
    }
    (folder / "sources" / "align.yaml").write_text(yaml.safe_dump(definition))


@pytest.mark.usefixtures("small_corpus")
@pytest.mark.parametrize("name", TINY)
def test_every_tiny_mixture_is_made_and_every_image_in_it_decodes(store: Store, pairs: Manifest, name: str) -> None:
    manifest = mix(store, name, pairs)
    assert manifest.rows_in == manifest.rows_out + sum(manifest.drops.values()) > 0
    assert pairs.artifact in manifest.parents
    mixed, reader = MixedSamples(store, manifest.artifact), ImageReader(16)
    assert sum(mixed.sizes) == manifest.rows_out
    for component, size in enumerate(mixed.sizes):
        samples = mixed.samples([(component, position) for position in range(size)])
        assert len({sample.key for sample in samples}) == size
        for sample in samples:
            assert sample.source == mixed.mixture.components[component].source
            (image,) = sample.images
            assert reader.read(image, sample.key).shape == (3, 16, 16)


def test_pairs_keep_their_captions_and_their_very_bytes(store: Store, pairs: Manifest) -> None:
    mixed = MixedSamples(store, mix(store, "tiny_pairs", pairs).artifact)
    assert mixed.sizes == (30,)
    (sample,) = mixed.samples([(0, 25)])
    picture = scene("train", 25)
    assert sample.turns[0].answer.endswith(picture.objects[0].kind)
    (image,) = sample.images
    with Path(image.path).open("rb") as shard:
        shard.seek(image.offset)
        assert shard.read(image.length) == jpeg(draw(picture, 64))


def test_a_mixture_stays_valid_when_its_workdir_moves(store: Store, pairs: Manifest, tmp_path: Path) -> None:
    artifact = mix(store, "tiny_pairs", pairs).artifact
    Path(store.workdir).rename(tmp_path / "moved")
    mixed = MixedSamples(Store(str(tmp_path / "moved")), artifact)
    (sample,) = mixed.samples([(0, 0)])
    (image,) = sample.images
    ImageReader(8).read(image, sample.key)


def test_mixing_again_finds_the_finished_mixture(store: Store, pairs: Manifest) -> None:
    assert mix(store, "tiny_pairs", pairs) == mix(store, "tiny_pairs", pairs)


def test_drops_are_counted_by_component_and_reason(store: Store, define: Path) -> None:
    write_align(define, {"1": "one", "2": "two", "3": "three", "4": "", "5": "five"}, images=4)
    write_mixture(
        define,
        {"source": "align", "task": "describe", "weight": 3.0},
        {"source": "align", "task": "caption_only", "weight": 1.0, "max_samples": 2},
    )
    manifest = mix(store, "blend", None)
    assert (manifest.rows_in, manifest.rows_out) == (10, 5)
    assert manifest.drops == {"align: empty_answer": 2, "align: missing_image": 2, "align: over_max_samples": 1}
    whole, limited = manifest.details["components"]
    assert (whole["samples"], whole["declared_share"], limited["samples"]) == (3, 0.75, 2)
    summary = json.loads((store.folder(manifest.artifact) / "mixture.json").read_text())
    assert summary["components"] == manifest.details["components"]


def test_keys_that_are_not_read_stand_in_the_manifest(store: Store, define: Path) -> None:
    write_align(define, {"1": "one", "2": "two"}, images=2)
    path = define / "files" / "filter_cap.json"
    path.write_text(path.read_text().replace('"caption"', '"mood": "calm", "caption"'))
    write_mixture(define, {"source": "align", "task": "describe", "weight": 1.0})
    (component,) = mix(store, "blend", None).details["components"]
    assert (component["samples"], component["not_read"]) == (2, {"key mood": 2})


def test_a_changed_weight_is_another_mixture(store: Store, define: Path) -> None:
    write_align(define, {"1": "one"}, images=1)
    artifacts = set()
    for weight in (1.0, 2.0):
        write_mixture(define, {"source": "align", "task": "describe", "weight": weight})
        artifacts.add(mix(store, "blend", None).artifact)
    assert len(artifacts) == 2


def test_a_corrected_annotation_file_is_another_mixture(store: Store, define: Path) -> None:
    write_mixture(define, {"source": "align", "task": "describe", "weight": 1.0})
    artifacts = set()
    for caption in ("one", "One."):
        write_align(define, {"1": caption}, images=1)
        artifacts.add(mix(store, "blend", None).artifact)
    assert len(artifacts) == 2


def test_a_missing_annotation_file_is_named(store: Store, define: Path) -> None:
    write_align(define, {"1": "one"}, images=1)
    write_mixture(define, {"source": "align", "task": "describe", "weight": 1.0})
    (define / "files" / "filter_cap.json").unlink()
    with pytest.raises(DataError, match=r"data:filter_cap.json: nothing at"):
        mix(store, "blend", None)


def test_a_component_without_a_usable_sample_is_refused_and_nothing_is_left(store: Store, define: Path) -> None:
    write_align(define, {"1": "one", "2": ""}, images=0)
    write_mixture(define, {"source": "align", "task": "describe", "weight": 1.0})
    refused = (
        r"components\[0\]: align has no usable sample left of 2.*missing_image.*the first one dropped is record 1 of "
        r".*filter_cap.json: no image '1.jpg' in .*; cc_sbu_align wants image_id, caption"
    )
    with pytest.raises(DataError, match=refused):
        mix(store, "blend", None)
    assert store.names("mixtures/") == []


def test_a_task_that_a_layout_cannot_answer_is_refused(store: Store, define: Path) -> None:
    write_align(define, {"1": "one"}, images=1)
    write_mixture(define, {"source": "align", "task": "refer", "weight": 1.0})
    with pytest.raises(DefinitionError, match=r"components\[0\].task: align cannot be asked 'refer'; choose.*describe"):
        mix(store, "blend", None)


def test_a_mixture_of_pairs_without_pairs_is_refused(store: Store) -> None:
    with pytest.raises(DefinitionError, match=r"mixture 'tiny_pairs': needs the filtered pairs of a run"):
        mix(store, "tiny_pairs", None)


def test_a_pairs_source_cannot_be_mixed_uncurated(store: Store, define: Path) -> None:
    definition = {
        "kind": "pairs",
        "about": "made up",
        "licence": "none",
        "tables": [{"location": "data:table.parquet"}],
        "filter": "web_pairs",
    }
    (define / "sources" / "web.yaml").write_text(yaml.safe_dump(definition))
    write_mixture(define, {"source": "web", "task": "caption", "weight": 1.0})
    with pytest.raises(DefinitionError, match=r"components\[0\].source: web holds URL pairs; write \$source"):
        mix(store, "blend", None)
