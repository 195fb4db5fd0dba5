"""Text from a run's weights: prompt in, text out, by the forms that the objectives trained.

forwards   begin, prompt → what follows                       causal, prefix
infill     <pre> prompt <suf> suffix <mid> → what is between  fim
backwards  end, prompt reversed → what stands before          reverse
"""

from typing import Literal

from data.errors import BadInput
from data.tokenization.tokenizer import Tokenizer
from launcher.inference.trained_model import load_model
from launcher.runs.run_folder import RunFolder
from model.generate import Sampling, backwards_prompt, infill_prompt, onwards_prompt
from model.generate import generate as generate_ids
from model.transformer import Transformer
from objectives.mixture import Mixture
from objectives.reverse import Reverse

Order = Literal["forwards", "infill", "backwards"]


def generate(
    run: RunFolder,
    prompt: str,
    *,
    step: int | None,
    tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    order: Order,
    suffix: str,
    seed: int,
) -> str:
    """The new text alone. BadInput where the settings cannot work or the run has no checkpoint."""
    for name, text in (("PROMPT", prompt), ("--suffix", suffix)):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadInput(f"generate: {name}: expected text in UTF-8") from None
    trained = load_model(run, step)
    if suffix and order != "infill":
        raise BadInput("--suffix: belongs to --order infill")
    try:
        sampling = Sampling(temperature, top_k, top_p, seed)
    except ValueError as error:
        raise BadInput(f"generate: {error}") from None
    return text_of(
        trained.model,
        trained.tokenizer,
        trained.config.objectives,
        prompt,
        tokens,
        sampling,
        order,
        suffix,
    )


def text_of(
    model: Transformer,
    tokenizer: Tokenizer,
    mixture: Mixture,
    prompt: str,
    tokens: int,
    sampling: Sampling,
    order: Order = "forwards",
    suffix: str = "",
) -> str:
    """The new text after, before or within a prompt. mixture: what the model was trained on."""
    control = tokenizer.control
    spelt = any(entry.objective == Reverse(unit="character") for entry in mixture.entries)
    by_character = order == "backwards" and spelt
    ends_a_text = order == "backwards" and not by_character
    text = tokenizer.encode(prompt[::-1] if by_character else prompt, inside=ends_a_text).tolist()
    stop = control.end
    if order == "infill":
        after = tokenizer.encode(suffix, inside=True).tolist()
        ids = infill_prompt(control.fim_prefix, control.fim_suffix, control.fim_middle, text, after)
    elif order == "backwards":
        ids = [control.end, *text] if by_character else backwards_prompt(control.end, text)
        stop = control.begin
    else:
        ids = onwards_prompt(control.begin, text)
    room = model.config.max_sequence_length - len(ids)
    if room < 1:
        raise BadInput(
            f"the prompt has {len(ids)} tokens; this model reads at most {model.config.max_sequence_length}"
        )
    (new,) = generate_ids(
        model,
        ids,
        limit=min(tokens, room),
        stop=stop,
        sampling=sampling,
        forbidden=_controls(tokenizer),
    )
    if ends_a_text:
        new = new[::-1]
    found = tokenizer.decode(new, inside=True)
    return found[::-1] if by_character else found


def whole(prompt: str, text: str, order: Order, suffix: str = "") -> str:
    """New text where it belongs: with what it goes on from, in the order of reading."""
    return text + prompt if order == "backwards" else prompt + text + suffix


def _controls(tokenizer: Tokenizer) -> list[int]:
    """Every id that is no text."""
    text = tokenizer.is_byte.copy()
    text[tokenizer.ordinary] = True
    return [number for number in range(tokenizer.size) if not text[number]]
