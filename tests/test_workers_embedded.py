"""The shipped model and benchmark: they load as they are, the model looks, and training computes what it will run."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image

from embedded_training.architecture import BOS, EOS, IMAGE, build_model, build_tokenizer, load, prompt, save
from embedded_training.curves import Look, generate, mcnemar, read, top
from embedded_training.drawn import conversation, items, problem
from embedded_training.forward import letter_logits
from embedded_training.scene import PALETTE, SIDE, random_scene, render
from embedded_training.train import BARE, PREFIX, Step, Trainee, _open_arrays, prepare, random_question, take
from workers.embedded.location import DATA_DIR, MODEL_DIR

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shipped():
    return load(MODEL_DIR, CPU)


@pytest.fixture(scope="module")
def asks():
    return [ask for ask in read(DATA_DIR, "test") if ask.needs_picture][:30]


def test_the_weights_are_small_and_complete(shipped):
    model, _ = shipped
    assert (MODEL_DIR / "model.safetensors").stat().st_size <= 10_000_000
    assert model.config.text_config.num_hidden_layers >= 12
    assert model.config.vision_feature_layer == -2
    assert model.config.vision_feature_select_strategy == "default"


def test_the_benchmark_is_small_and_is_what_its_generator_writes():
    files = [path for path in DATA_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2_500_000
    problems = json.loads((DATA_DIR / "problems.json").read_text())
    made = items(0, "test", 444)
    for item in made:
        assert problems[item.id] == problem(item)
    assert json.loads((DATA_DIR / "llava_test_CQM-A.json").read_text()) == [conversation(item) for item in made]
    for item in made[:60]:
        if item.scene:
            with Image.open(DATA_DIR / "images" / "test" / item.id / "image.png") as image:
                assert image.convert("RGB").tobytes() == render(item.scene).convert("RGB").tobytes()


def test_the_tokenizer_is_rebuilt_exactly_and_takes_any_text(shipped):
    _, processor = shipped
    tokenizer = processor.tokenizer
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    for letter in "ABCDE":
        (token,) = tokenizer.encode(letter, add_special_tokens=False)
        assert tokenizer.decode([token]) == letter
    assert tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<image>"]) == [BOS, EOS, IMAGE]
    text = "Photosynthesis in Zürich: 日本 costs 42 €\n\tor so?"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_part_before_the_image_is_35_tokens(shipped):
    _, processor = shipped
    text = prompt("Which shape is red?\nA. star\nB. ring", image=True)
    batch = processor(images=Image.new("RGB", (SIDE, SIDE)), text=text, return_tensors="pt")
    places = (batch["input_ids"][0] == IMAGE).nonzero().flatten()
    assert places[0] == 35
    assert len(places) == 576
    assert batch["pixel_values"].shape == (1, 3, 336, 336)


@torch.no_grad()
def test_the_model_looks(shipped, asks):
    model, processor = shipped
    share = {}
    for picture in ("shown", "blank"):
        answers = generate(model, processor, asks, picture)
        right = [answer == f"{ask.letter}</s>" for ask, answer in zip(asks, answers, strict=True)]
        share[picture] = sum(right) / len(right)
    assert share["shown"] >= 0.85
    assert share["blank"] <= 0.6  # chance is 0.34; three standard deviations of 30 questions are 0.26


@torch.no_grad()
def test_layers_matter_and_hiding_nothing_changes_nothing(shipped, asks):
    model, processor = shipped
    look = Look(model, processor, asks[:6])
    letters = [processor.tokenizer.convert_tokens_to_ids(ask.letter) for ask in asks[:6]]
    nothing = torch.zeros(6, 576, dtype=torch.bool)
    right = [(look.answer(layer, nothing) == torch.tensor(letters)).sum().item() for layer in (0, 12)]
    assert right[0] <= 5
    assert right[1] >= 5
    assert torch.equal(look.answer(2, ~nothing), look.answer(12, None))
    assert torch.equal(look.answer(12, nothing), look.answer(12, None))


def test_top_keeps_the_lower_index_of_equal_scores():
    kept = top(torch.tensor([[1.0, 2.0, 1.0, 1.0]]), 2)
    assert kept.tolist() == [[True, True, False, False]]


def test_mcnemar_is_exact():
    assert mcnemar([True] * 10, [False] * 10) == pytest.approx(2 / 2**10)
    assert mcnemar([True, False], [False, True]) == 1.0
    assert mcnemar([True], [True]) == 1.0


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("scenes")
    prepare(folder, 8, seed=1)
    return {name: torch.from_numpy(array) for name, array in _open_arrays(folder, 8, "r+").items()}


@torch.no_grad()
def test_a_packed_question_is_computed_as_transformers_would_alone(shipped, rows):
    """Float32 on one CPU; the two differ in the order of sums only."""
    model, processor = shipped
    trainee = Trainee(len(processor.tokenizer), 0)
    trainee.model = model
    step = Step(trainee, 1, CPU, fast=False, flex=False)
    compared = {"image": 0, "bare": 0}
    for scene in range(8):
        batch = take(rows, torch.tensor([scene]), torch.tensor([0]))
        logits = letter_logits(model, step.text_hidden(batch)[0])[0]
        picture = Image.frombytes("P", (SIDE, SIDE), batch["image"][0].numpy().tobytes())
        picture.putpalette([level for colour in PALETTE for level in colour])
        for number in batch["number"][0].unique().tolist():
            kind = "image" if number < BARE else "bare"
            if number == 255 or compared[kind] >= 2:
                continue
            compared[kind] += 1
            places = (batch["number"][0] == number).nonzero().flatten()
            end = int((batch["target"][0, places] > 0).nonzero()[0])
            text = processor.tokenizer.decode(batch["token"][0, places[: end + 1]].tolist())
            before, after = prompt("|", image=number < BARE, instruction="").split("|")
            assert text.endswith(after)
            image = picture.convert("RGB") if number < BARE else None
            whole = before + text.removesuffix(after).lstrip() + after
            alone = processor(images=image, text=whole, return_tensors="pt")
            expected = model(**alone).logits[0, -1]
            torch.testing.assert_close(logits[places[end]], expected, rtol=1e-4, atol=1e-3)
    assert compared["image"] == 2
    assert compared["bare"] >= 1


def test_rows_teach_a_letter_and_the_end(rows):
    tokens, targets, numbers = (rows[name][:, 0].long() for name in ("token", "target", "number"))
    for row in range(len(tokens)):
        for number in numbers[row].unique().tolist():
            places = (numbers[row] == number).nonzero().flatten()
            if number == 255:
                assert not targets[row, places].any()
                continue
            learned = places[targets[row, places] > 0]
            assert tokens[row, learned[-1] + 1] == EOS
            assert learned[-1] + 1 == places[-1]
            assert torch.equal(learned, torch.arange(learned[0], places[-1]))


def test_training_questions_come_in_every_form():
    rng = Random(0)
    made = [question for _ in range(600) if (question := random_question(random_scene(rng), rng))]
    assert any(text.startswith("\nContext: ") for text, _, _ in made)
    assert any("single word or phrase" in text for text, _, _ in made)
    assert any("directly. ASSISTANT:" in text for text, _, _ in made)
    assert any("Answer" not in text for text, _, _ in made)
    assert any(text.startswith(" ") for text, _, _ in made)
    assert all(text.endswith(" ASSISTANT:") for text, _, _ in made)


def test_an_untrained_checkpoint_loads_back(tmp_path: Path):
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), seed=0)
    weight = model.lm_head.weight.detach().clone()
    save(model, tmp_path)
    again, processor = load(tmp_path, CPU)
    torch.testing.assert_close(again.lm_head.weight, weight.bfloat16().float())
    assert processor.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert PREFIX == 35 + 576
