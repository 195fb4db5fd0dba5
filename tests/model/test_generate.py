"""Generation: remembered keys give the logits of the whole sequence; sampling keeps to its settings."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from model.config import ModelConfig
from model.generate import Reader, Sampling, backwards_prompt, draw, generate, infill_prompt, onwards_prompt
from model.initialise import initialise
from model.transformer import Transformer
from tests.support.packed_rows import HEADS, layout

VOCABULARY, T = 40, 24
SMALL = ModelConfig(layers=2, width=32, heads=4, max_sequence_length=T, init_std=0.3)


def build(**choices: object) -> Transformer:
    config = replace(SMALL, **choices)  # type: ignore[arg-type]
    model = Transformer(config, VOCABULARY, HEADS, 1)
    initialise(model, config, 3)
    return model


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"kv_heads": 2, "qk_norm": True},
        {"positions": "learned", "norm": "layer", "norm_placement": "post"},
    ],
    ids=str,
)
@pytest.mark.parametrize("visible_prompt", [False, True])
def test_reading_in_parts_gives_the_logits_of_the_whole(choices: dict, visible_prompt: bool) -> None:
    model = build(**choices)
    tokens = torch.randint(VOCABULARY, (3, T), generator=torch.Generator().manual_seed(0))
    start, bound = layout([[(T, "causal")]] * 3, T)
    if visible_prompt:
        bound[:, :9] = 8
    reader = Reader(model, T)
    parts = [reader.read(tokens[:, :9], visible_prompt), reader.read(tokens[:, 9:14])]
    parts += [reader.read(tokens[:, i : i + 1]) for i in range(14, T)]
    with torch.no_grad():
        whole = model.logits({"tokens": tokens, "start": start, "bound": bound})
        got = model.head.logits(torch.cat(parts, 1))
    torch.testing.assert_close(got, whole, rtol=0, atol=2e-5)


def test_the_likeliest_continuation_is_that_of_the_full_forward_pass() -> None:
    model, prompt = build(), [1, 5, 9]
    (got,) = generate(model, prompt, limit=12, stop=-1, sampling=Sampling(temperature=0))
    tokens = list(prompt)
    for _ in range(12):
        start, bound = layout([[(len(tokens), "causal")]], len(tokens))
        with torch.no_grad():
            logits = model.logits({"tokens": torch.tensor([tokens]), "start": start, "bound": bound})
        tokens.append(int(logits[0, -1].argmax()))
    assert got == tokens[3:]


def test_the_seed_fixes_the_samples_and_the_training_mode_is_kept() -> None:
    model = build(dropout=0.5)
    one, again, other = (
        generate(model, [1, 2], limit=10, stop=0, samples=4, sampling=Sampling(seed=seed))
        for seed in (7, 7, 8)
    )
    assert one == again
    assert one != other
    assert len({tuple(sample) for sample in one}) > 1
    assert model.training


def test_a_sample_ends_before_stop_and_forbidden_ids_are_never_drawn() -> None:
    model = build()
    (first, second, *_), limit = generate(model, [1], limit=8, stop=-1, sampling=Sampling(0))[0], 8
    (cut,) = generate(model, [1], limit=limit, stop=second, sampling=Sampling(0))
    assert cut == ([first] if first != second else [])
    samples = generate(
        model, [1], limit=8, stop=39, sampling=Sampling(2.0), samples=16, forbidden=range(5, 40)
    )
    drawn = {token for sample in samples for token in sample}
    assert drawn
    assert drawn <= set(range(5))


def frequencies(sampling: Sampling, chances: list[float]) -> list[float]:
    logits = torch.tensor(chances).log().expand(20000, -1)
    tokens = draw(logits, sampling, torch.Generator().manual_seed(0))
    return (torch.bincount(tokens, minlength=len(chances)) / len(tokens)).tolist()


@pytest.mark.parametrize(
    "sampling, expected",
    [
        (Sampling(), [0.1, 0.5, 0.15, 0.25]),
        (Sampling(temperature=0), [0, 1, 0, 0]),
        (Sampling(temperature=0.5), [0.029, 0.725, 0.065, 0.181]),
        (Sampling(temperature=1e-6), [0, 1, 0, 0]),
        (Sampling(temperature=1e6), [0.25, 0.25, 0.25, 0.25]),
        (Sampling(top_p=1e-320), [0, 1, 0, 0]),
        (Sampling(top_k=2), [0, 2 / 3, 0, 1 / 3]),
        (Sampling(top_p=0.6), [0, 2 / 3, 0, 1 / 3]),
        (Sampling(top_p=0.5), [0, 1, 0, 0]),
        (Sampling(top_k=3, top_p=0.99), [0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9]),
    ],
    ids=str,
)
def test_draws_have_the_chances_that_the_settings_leave(sampling: Sampling, expected: list[float]) -> None:
    assert frequencies(sampling, [0.1, 0.5, 0.15, 0.25]) == pytest.approx(expected, abs=0.015)


def test_scores_of_any_size_are_drawn_from_at_any_temperature() -> None:
    scores = torch.tensor([[3e38, -3e38, 2.9e38, -torch.inf]]).expand(20, -1)
    tokens = draw(scores, Sampling(temperature=1e-6), torch.Generator().manual_seed(0))
    assert tokens.tolist() == [0] * 20


def test_the_three_forms_are_those_of_the_objectives() -> None:
    assert onwards_prompt(begin=1, text=[10, 11]) == [1, 10, 11]
    assert backwards_prompt(end=2, text=[10, 11]) == [2, 11, 10]
    assert infill_prompt(3, 4, 5, before=[10, 11], after=[12]) == [3, 10, 11, 4, 12, 5]


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda: Sampling(temperature=-1), "temperature: expected"),
        (lambda: Sampling(temperature=1e-40), "temperature: expected 0, or a number from 1e-06 to 1e"),
        (lambda: Sampling(temperature=1e300), "temperature: expected 0, or a number from 1e-06 to 1e"),
        (lambda: Sampling(temperature=float("nan")), "temperature: expected"),
        (lambda: Sampling(top_k=0), "top_k: expected"),
        (lambda: Sampling(top_p=0), "top_p: expected"),
        (lambda: generate(build(), [], limit=1, stop=0, sampling=Sampling()), "at least one id"),
        (
            lambda: generate(build(), [1] * 20, limit=5, stop=0, sampling=Sampling()),
            "25 positions are more than",
        ),
    ],
)
def test_bad_settings_are_refused_in_words(ask: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask()
