"""The shipped backbones: complete, traceable, repeatable from their seeds, and able to see."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PhiConfig, PhiForCausalLM

from tinygptv.errors import DefinitionError, HandoffError
from tinygptv.models.qformer import ImageTextQFormer, QFormer
from tinygptv.models.vision_encoders.eva_vit import EvaVit
from tinygptv.models.weights import open_weights
from tinygptv.shapes import language
from tinygptv.shapes.bootstrap import corpus, phases, probes, run, texts
from tinygptv.shapes.bootstrap.loop import learning_rate
from tinygptv.shapes.bootstrap.mentions import mentions
from tinygptv.shapes.bootstrap.settings import Phase, Settings
from tinygptv.shapes.bootstrap.tokenizer import load_tokenizer
from tinygptv.shapes.scenes import GRID, SceneObject, scene
from tinygptv.store.locations import PACKAGE

SHIPPED = PACKAGE / "backbones" / "shapes"


def tiny(steps: int = 2) -> Settings:
    """Settings with which a phase takes a second."""
    phase = Phase(steps=steps, batch=2, peak_lr=1e-3, seed=1, checkpoint_steps=steps)
    sizes = Settings(width=32, heads=2, vision_layers=1, qformer_layers=2, language_layers=1, mention_layer=1)
    return replace(sizes, tower=phase, qformer=phase, language=phase)


def test_every_shipped_file_is_the_one_its_provenance_records() -> None:
    provenance = phases.provenance(SHIPPED)
    assert tuple(provenance) == phases.PHASES
    recorded = {name: digest for phase in provenance.values() for name, digest in phase["files"].items()}
    present = {str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*") if path.is_file()}
    assert present - recorded.keys() == {phases.PROVENANCE}
    for name, digest in recorded.items():
        assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == digest, name


def test_the_shipped_files_fit_in_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 10_000_000


def test_the_world_is_still_the_one_the_backbones_were_trained_in() -> None:
    assert {phase["made_with"]["data"] for phase in phases.provenance(SHIPPED).values()} == {phases.data_hash()}


@pytest.mark.parametrize("name", ["tower", "qformer", "language"])
def test_the_first_steps_of_a_phase_repeat_the_recorded_losses(name: str) -> None:
    recorded = phases.provenance(SHIPPED)[name]["first_losses"][:3]
    assert phases.first_losses(SHIPPED, name, steps=3) == pytest.approx(recorded, rel=2e-3)


def test_the_query_outputs_of_the_shipped_qformer_differ_between_scenes_and_sizes_agree() -> None:
    qformer = QFormer.from_pretrained(SHIPPED)
    scenes = [scene("heldout", index) for index in range(8)]
    with torch.no_grad():
        outputs = [
            qformer(EvaVit.from_pretrained(SHIPPED, side)(corpus.pixel_values(scenes, side))) for side in (48, 64)
        ]
    assert outputs[0].shape == (8, 16, 128)
    small, large = (torch.nn.functional.normalize(output.flatten(1), dim=1) for output in outputs)
    assert ((small @ large.T).argmax(dim=1) == torch.arange(8)).all()


def test_the_shipped_qformer_prefers_a_true_text_to_one_that_is_nearly_true() -> None:
    qformer, tokenizer = ImageTextQFormer.from_pretrained(SHIPPED).eval(), load_tokenizer(SHIPPED)
    encoder = EvaVit.from_pretrained(SHIPPED, 48).eval()
    scenes = [scene("heldout", index) for index in range(64)]
    pairs = [texts.matching_pair(picture, corpus.rng_of("test", index)) for index, picture in enumerate(scenes)]
    rows = [[qformer.cls_id, *tokenizer.encode(text), 0] for side in zip(*pairs, strict=True) for text in side]
    with torch.no_grad():
        features = encoder(corpus.pixel_values(scenes, 48)).repeat(2, 1, 1)
        mask = corpus.pad([[1] * len(row) for row in rows], 0)
        logits = qformer.matching_logits(features, corpus.pad(rows, 0), mask)
    right, wrong = (logits[:, 1] - logits[:, 0]).chunk(2)
    assert (right > wrong).float().mean() > 0.8


def test_the_shipped_phi_is_a_stock_one() -> None:
    phi = PhiForCausalLM(PhiConfig(**json.loads((SHIPPED / "language_model.json").read_text())))
    assert set(phi.state_dict()) == set(open_weights(SHIPPED / "language_model.safetensors"))
    assert not phi.config.qk_layernorm


def test_the_tokenizer_ends_answers_in_one_token_and_reads_any_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "tokenizer")
    end = tokenizer.encode("###")
    assert len(end) == 1
    assert len(tokenizer) == 640
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    for text in ("red###", "{<12><3><100><56>}###", "a shape.###", "###Human: <Img>", " ###Assistant: "):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert text.count("###") == ids.count(end[0])
    assert tokenizer.decode(tokenizer.encode("naïve CAFÉ 茶")) == "naïve CAFÉ 茶"


def test_all_phases_run_and_a_finished_one_is_not_repeated(tmp_path: Path) -> None:
    run(tmp_path, settings=tiny())
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in written} >= {
        "vision_encoder.safetensors",
        "qformer_text.safetensors",
        "tokenizer.json",
    }
    run(tmp_path, settings=tiny())
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_looking_at_held_out_scores_changes_no_loss(tmp_path: Path) -> None:
    run(tmp_path, ["tokenizer", "tower"], tiny())
    often = replace(tiny(4), qformer=replace(tiny(4).qformer, checkpoint_steps=1))
    run(tmp_path, ["qformer"], often)
    recorded = phases.provenance(tmp_path)["qformer"]["first_losses"]
    assert phases.first_losses(tmp_path, "qformer", 4, often) == pytest.approx(recorded)


def test_a_phase_refuses_to_start_without_the_ones_before_it(tmp_path: Path) -> None:
    with pytest.raises(HandoffError, match="no finished tokenizer and tower"):
        run(tmp_path, ["qformer"], tiny())


def test_an_unknown_phase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="Did you mean 'tower'"):
        run(tmp_path, ["towr"])


def test_the_rate_warms_up_and_then_falls_to_a_tenth() -> None:
    phase = Phase(steps=100, batch=1, peak_lr=1.0, seed=0, warmup_steps=10)
    rates = [learning_rate(phase, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.1)


def test_patch_targets_name_what_covers_a_patch() -> None:
    pictures = [scene("train", index) for index in range(20)]
    grid = 6
    classes = corpus.patch_targets(pictures, grid).classes
    for picture, patches in zip(pictures, classes, strict=True):
        for thing in picture.objects:
            x, y = (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2
            middle = patches[int(y * grid) * grid + int(x * grid)]
            assert middle[3:].tolist() == [thing.row, thing.column]


def test_cell_targets_and_crowding_agree_on_where_things_stand() -> None:
    pictures = [scene("train", index) for index in range(10)]
    (crowd,) = corpus.crowded(pictures, 10)
    cells = {(thing.row, thing.column) for picture in pictures for thing in picture.objects}
    assert {(thing.row, thing.column) for thing in crowd.objects} == cells
    occupied = corpus.cell_targets([crowd]).classes[0, :, 3] != corpus.IGNORE
    assert {divmod(int(place), GRID) for place in occupied.nonzero()} == cells


def test_a_near_miss_names_something_that_is_not_there() -> None:
    for index in range(200):
        picture = scene("train", index)
        right, wrong = texts.matching_pair(picture, corpus.rng_of("test", index))
        true = {f"a {language.name(thing)} {language.at_place(thing)}" for thing in picture.objects}
        if right.startswith("there "):
            assert right != wrong
        else:
            assert set(right.split(", ")) <= true
            assert not set(wrong.split(", ")) <= true


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("is there a small red circle?", [("small", 2), ("red", 1), ("circle", 1)]),
        ("there are two blue shapes", [("blue", 1), ("shapes", 1)]),
        ("how many circles are there?", [("circles", 2)]),
        ("the red circle is left of the blue circle", [("red", 1), ("circle", 1), ("blue", 1), ("circle", 1)]),
        ("red star at the top left", [("red", 1), ("star", 0), ("left", 0)]),
        ("what color is the shape at the bottom right?", [("shape", 3), ("right", 1)]),
        ("any circle center?", [("circle", 2), ("center", 1)]),
        ("what is the shape of the large shape?", [("large", 1), ("shape", 1)]),
        ("Which shape is the blue shape", [("blue", 1), ("shape", 1)]),
        ("what kind of shape is the large shape?", [("large", 1), ("shape", 1)]),
        ("count the shapes", [("shapes", 3)]),
        ("what is the number of shapes?", [("shapes", 3)]),
        ("the circle at the top left is what colour?", [("circle", 2), ("left", 1)]),
        ("where is it?", []),
    ],
)
def test_a_mention_is_of_all_that_fits_what_was_said_so_far(text: str, said: list[tuple[str, int]]) -> None:
    box = (0.0, 0.0, 0.2, 0.2)
    objects = (
        SceneObject("circle", "red", "small", 0, 0, box),
        SceneObject("circle", "blue", "large", 1, 1, box),
        SceneObject("cross", "green", "small", 2, 2, box),
    )
    picture = replace(scene("train", 0), objects=objects)
    found = [(text[: mention.end].rsplit(maxsplit=1)[-1], len(mention.objects)) for mention in mentions(text, picture)]
    assert found == said


def test_every_phrase_that_identifies_an_object_is_a_mention_of_it_alone() -> None:
    for index in range(100):
        picture = scene("train", index)
        for thing in picture.objects:
            for phrase in language.identifying_phrases(picture, thing):
                *_, last = mentions(f"where is the {phrase}?", picture)
                assert last.objects == (thing,)


def test_inserted_norms_change_attention_as_tinygptv_does(tmp_path: Path) -> None:
    run(tmp_path, ["tokenizer"], tiny())
    module = phases.prepare(tmp_path, "language", tiny()).module
    attention = module.phi.model.layers[0].self_attn
    states = torch.randn(2, 3, 32)
    module.norms.inserted = True
    heads, whole = attention.q_proj(states).unflatten(-1, (2, 16)), attention.dense(states)
    assert heads.mean(dim=-1).abs().max() < 1e-5
    for size in (heads.square().mean(dim=-1), whole.square().mean(dim=-1)):
        torch.testing.assert_close(size, torch.ones_like(size), atol=1e-3, rtol=0)
    module.norms.inserted = False
    assert not torch.equal(attention.dense(states), whole)


def test_exams_mark_what_the_language_model_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, ["tokenizer"], tiny())
    module = phases.prepare(tmp_path, "language", tiny()).module
    monkeypatch.setattr(module, "answers", lambda scenes, turns, *rest, **more: [turn.answer for turn in turns])
    with torch.no_grad():
        scores = probes.language(module)
    assert {name: scores[name] for name in texts.EXAMS} == dict.fromkeys(texts.EXAMS, 1.0)
    monkeypatch.setattr(module, "answers", lambda scenes, turns, *rest, **more: ["" for turn in turns])
    with torch.no_grad():
        assert {probes.language(module)[name] for name in texts.EXAMS} == {0.0}
