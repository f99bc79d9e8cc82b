"""Every definition that ships loads and every reference resolves; every wrong one is refused with a useful message."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from tinygptv import catalog
from tinygptv.catalog import FOLDERS, resolve_run
from tinygptv.definitions.model import Model
from tinygptv.errors import DefinitionError

LOADERS = {
    "source": catalog.source,
    "filter": catalog.filter_chain,
    "scorer": catalog.scorer,
    "mixture": catalog.mixture,
    "benchmark": catalog.benchmark,
    "recipe": catalog.recipe,
    "template": catalog.template,
    "hardware": catalog.hardware,
}
ALL = [(kind, name) for kind in LOADERS for name in catalog.names(kind)]


@pytest.mark.parametrize(("kind", "name"), ALL, ids=[f"{kind}:{name}" for kind, name in ALL])
def test_every_definition_that_ships_loads(kind: str, name: str) -> None:
    assert LOADERS[kind](name).about


@pytest.mark.parametrize("folder", sorted(set(FOLDERS.values())), ids=lambda folder: folder.name)
def test_no_definition_hides_in_a_subfolder_or_under_another_suffix(folder: Path) -> None:
    assert [path.name for path in folder.rglob("*.y*ml") if path.parent != folder or path.suffix != ".yaml"] == []


@pytest.mark.parametrize("recipe", catalog.names("recipe"))
def test_every_recipe_resolves_with_all_that_it_refers_to(recipe: str) -> None:
    run = resolve_run(recipe, "shapes", "cpu")
    assert set(run.mixtures) == {stage.mixture for stage in run.recipe.stages}
    assert set(run.benchmarks) == set(run.recipe.benchmarks)


def tiny(tmp_path: Path, change: dict[str, object] | None = None, stage: dict[str, object] | None = None) -> str:
    """A copy of the tiny recipe, changed at the top or in its first stage; its path."""
    content = yaml.safe_load((FOLDERS["recipe"] / "tinygptv_tiny.yaml").read_text())
    content |= change or {}
    content["stages"][0] |= stage or {}
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def schedule(**change: object) -> dict[str, object]:
    values = {"warmup_lr": 0.0, "peak_lr": 1.0e-3, "final_lr": 1.0e-4, "warmup_steps": 1, "steps": 2}
    return {"schedule": values | change}


INPUTS = {"image_size": 48, "max_text_tokens": 8, "template": None, "end_symbol": "x"}
LORA = {"rank": 2, "alpha": 2.0, "dropout": 0.0, "init": "fresh"}


@pytest.mark.parametrize(
    ("change", "stage", "message"),
    [
        ({"sede": 1}, {}, "sede: unknown key"),
        ({"seed": "one"}, {}, "seed: found 'one', want a whole number"),
        ({}, {"starts_from": "stage0"}, "no earlier stage is called 'stage0'"),
        (
            {},
            {"inputs": INPUTS | {"image_size": 50}},
            r"inputs.image_size: 50 px is not a multiple of the patch size 8",
        ),
        (
            {},
            {"inputs": INPUTS | {"max_text_tokens": 500}},
            r"inputs.max_text_tokens: 500 and the 16 tokens of an image leave no prompt a place in .* 512 positions",
        ),
        ({}, {"inputs": INPUTS | {"template": "a"}}, "exactly one {}"),
        ({}, {"trains": ["language_model.lora"]}, "trains names language_model.lora"),
        ({}, {"trains": ["language_model.lorra"]}, r"stages\[0\].trains\[0\]"),
        (
            {},
            {"trains": ["language_model.lora"], "lora": LORA | {"targets": ["q_proj"]}},
            r"stages\[0\].lora.targets: a phi decoder has no q_proj; it has query_key_value, dense",
        ),
        ({}, {"inputs": INPUTS | {"oddities": ["bos_lost"]}}, r"stages\[0\].inputs.oddities\[0\]: .*later_bos_unseen"),
        ({}, schedule(final_lr=2.0e-3), "write rising: true"),
        ({}, schedule(rising=True), "write rising: false"),
        (
            {},
            schedule(peak_lr="1e-3"),
            r"schedule.peak_lr: found '1e-3', want a number \(YAML reads 1e-3 as text: write 1.0e-3",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_field_and_what_to_do(
    tmp_path: Path, change: dict[str, object], stage: dict[str, object], message: str
) -> None:
    with pytest.raises(DefinitionError, match=message):
        catalog.recipe(tiny(tmp_path, change, stage))


LLAMA = {
    "architecture": "llama",
    "width": 64,
    "depth": 2,
    "heads": 4,
    "key_value_heads": 2,
    "mlp_width": 96,
    "vocabulary": 640,
    "max_positions": 512,
    "rms_norm_eps": 1.0e-5,
    "qk_norm": True,
    "attention_norm": True,
    "weights": "./unused",
    "tokenizer": "./unused",
}


def model(**change: object) -> Model:
    """A model of the tiny recipe's vision encoder, one linear map and a Llama decoder, changed."""
    parts = {"connector": [{"part": "linear", "width": 64}], "language_model": LLAMA}
    return Model.model_validate(catalog.recipe("tinygptv_tiny").model.model_dump() | parts | change)


MERGE = {"part": "merge_patches", "count": 4}


def test_a_connector_says_how_many_tokens_an_image_becomes() -> None:
    linear = {"part": "linear", "width": 64}
    assert model().num_image_tokens(48) == 6 * 6 + 1
    assert model(connector=[MERGE, linear]).num_image_tokens(64) == 8 * 8 / 4
    assert catalog.recipe("tinygptv").model.num_image_tokens(224) == 32
    assert catalog.recipe("tinygptv").model.num_image_tokens(448) == 32


def test_a_model_names_all_files_its_weights_lie_in() -> None:
    vision = model().vision_encoder.model_dump() | {"weights": "data:eva.pth", "output_norm": "data:blip2.pth"}
    linear = {"part": "linear", "width": 64, "weights": "data:projection.pth"}
    found = model(vision_encoder=vision, connector=[MERGE, {"part": "linear", "width": 8}, linear]).weight_files()
    assert found == ["data:eva.pth", "data:blip2.pth", "data:projection.pth", "./unused"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"connector": [{"part": "linear", "width": 63}]}, "features of width 63 but language_model.width is 64"),
        ({"connector": [MERGE]}, "features of width 512 but language_model.width is 64"),
        ({"connector": [{"part": "linear", "width": 16}, MERGE]}, r"connector\[1\]: merge_patches .* come first"),
        ({"language_model": LLAMA | {"heads": 5}}, "width 64 is not a multiple of heads 5"),
        ({"language_model": LLAMA | {"key_value_heads": 3}}, "heads 4 is not a multiple of key_value_heads 3"),
        ({"language_model": LLAMA | {"rotary_fraction": 0.5}}, "rotary_fraction"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model(**change)


def test_pictures_whose_patches_do_not_divide_are_refused(tmp_path: Path) -> None:
    definition = model(connector=[MERGE, {"part": "linear", "width": 64}]).model_dump()
    inputs: dict[str, object] = {"inputs": INPUTS | {"image_size": 56}}
    with pytest.raises(DefinitionError, match=r"image_size: at 56 px connector\[0\] cannot join 49 patches by 4"):
        catalog.recipe(tiny(tmp_path, {"model": definition}, inputs))


def test_all_problems_of_a_file_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"2 mistakes:\n.*:19: colour: unknown key.*\n.*:60: seed: found nothing"):
        catalog.recipe(tiny(tmp_path, {"seed": None, "colour": "blue"}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tinygptv_tinny", "shapes", "cpu"), "no recipe named 'tinygptv_tinny'.*Did you mean 'tinygptv_tiny'"),
        (("tinygptv_tiny", "shape", "cpu"), "no source named 'shape'.*Did you mean 'shapes'"),
        (("tinygptv_tiny", "shapes", "cpuu"), "no hardware named 'cpuu'.*Did you mean 'cpu'"),
        (("tinygptv_tiny", "missing/table.parquet", "cpu"), "no such file"),
        (("tinygptv_tiny", "missing/table.xls", "cpu"), "not a table"),
        (("tinygptv_tiny", "vsr", "cpu"), "holds annotations; a run starts from a pairs source"),
    ],
)
def test_a_wrong_run_parameter_is_refused_with_the_likely_intended_value(
    arguments: tuple[str, str, str], message: str
) -> None:
    with pytest.raises(DefinitionError, match=message):
        resolve_run(*arguments)


def derived(tmp_path: Path, content: dict[str, object], base: str = "tinygptv_tiny") -> str:
    """A recipe file that changes `content` in its base; its path."""
    path = tmp_path / "derived.yaml"
    path.write_text(yaml.safe_dump({"base": base} | content))
    return str(path)


def test_a_derived_recipe_is_its_base_with_what_it_says(tmp_path: Path) -> None:
    base = catalog.recipe("tinygptv_tiny")
    changes = {"seed": 7, "stages": [{"stage": "stage3", "optimizer": {"clip_norm": 2.0}}]}
    found = catalog.recipe(derived(tmp_path, changes))
    assert found.seed == 7
    assert found.model == base.model
    assert [stage.stage for stage in found.stages] == [stage.stage for stage in base.stages]
    assert found.stage("stage3").optimizer == base.stage("stage3").optimizer.model_copy(update={"clip_norm": 2.0})
    assert found.stage("stage2") == base.stage("stage2")


@pytest.mark.parametrize(
    ("content", "base", "message"),
    [
        ({"sede": 1}, "tinygptv_tiny", r"derived\.yaml:2: sede: unknown key. Did you mean 'seed'\?"),
        (
            {"stages": [{"stage": "stage2", "optimizer": {"clip": 1.0}}]},
            "tinygptv_tiny",
            r"derived\.yaml:4: stages\[0\].optimizer.clip: unknown key. Did you mean 'clip_norm'\?",
        ),
        (
            {"stages": [{"stage": "stage5", "seed": 1}]},
            "tinygptv_tiny",
            r"derived\.yaml:3: stages\[0\]: missing: about, .*; add them.* no stage 'stage5'. Did you mean 'stage4'\?",
        ),
        (
            {},
            "tinygptv_tinny",
            r"derived\.yaml:1: base: no recipe named 'tinygptv_tinny'.*Did you mean 'tinygptv_tiny'",
        ),
        ({"base": 3}, "tinygptv_tiny", r"derived\.yaml:1: base: found 3, want the name of a recipe"),
    ],
)
def test_a_wrong_derived_recipe_is_refused_with_file_and_field(
    tmp_path: Path, content: dict[str, object], base: str, message: str
) -> None:
    with pytest.raises(DefinitionError, match=message):
        catalog.recipe(derived(tmp_path, content, base))


def test_recipes_derived_from_each_other_are_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(f"base: {second}\n")
    second.write_text(f"base: {first}\n")
    with pytest.raises(DefinitionError, match=r"second\.yaml:1: base: '.*first\.yaml' is derived from this very file"):
        catalog.recipe(str(first))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "tinygptv:without_loar",
            "recipe 'tinygptv:without_loar': no switch named 'without_loar'. Did you mean 'without_lora'?",
        ),
        ("tinygptv:", "no switch named ''"),
        ("tinygptv:without_lora:without_lora", "'without_lora' cannot be applied: no stage has lora; leave it out"),
        ("tinygptv_tinny:without_lora", "no recipe named 'tinygptv_tinny'"),
    ],
)
def test_a_wrong_switch_is_refused_with_those_that_are_known(reference: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        catalog.recipe(reference)


def test_a_recipe_with_switches_resolves_like_any_other() -> None:
    run = resolve_run("tinygptv_tiny:without_lora:without_rms_norm", "shapes", "cpu")
    assert not any(stage.lora for stage in run.recipe.stages)
    assert not run.recipe.model.language_model.attention_norm


def test_an_unknown_mixture_or_benchmark_in_a_recipe_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"no benchmark named 'shapes_qva'.*Did you mean 'shapes_vqa'"):
        resolve_run(tiny(tmp_path, {"benchmarks": ["shapes_qva"]}), "shapes", "cpu")
    with pytest.raises(DefinitionError, match=r"no mixture named 'tiny_pears'.*Did you mean 'tiny_pairs'"):
        resolve_run(tiny(tmp_path, stage={"mixture": "tiny_pears"}), "shapes", "cpu")


def test_ranks_that_cannot_share_the_global_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="2 ranks cannot share the global batch of stage1, 31"):
        resolve_run(tiny(tmp_path, stage={"global_batch_size": 31}), "shapes", "cpu")


def test_what_is_not_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("about: [unclosed")
    with pytest.raises(DefinitionError, match=r"broken\.yaml:1: the '\[' that opens here is not closed"):
        catalog.recipe(str(path))


def test_a_table_given_by_path_becomes_a_source_of_its_own(tmp_path: Path) -> None:
    table = tmp_path / "photos.tsv"
    table.write_text("a cat\thttp://example.org/cat.jpg\n")
    source = catalog.source(str(table))
    assert (source.kind, catalog.source_name(str(table))) == ("pairs", "photos")
