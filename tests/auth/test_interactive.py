"""Questions and answers as text, and what is none."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.interactive import (
    MAX_ANSWERS,
    MAX_PROMPTS,
    MAX_TEXT,
    SCHEME,
    Answers,
    Challenge,
    InteractiveError,
    Prompt,
    answer_authorization,
    challenge_text,
    clip,
    read_answers,
    read_challenge,
)
from sshoq.wire import decode_text, encode_text

texts = st.binary(max_size=40).map(decode_text)
prompts = st.builds(Prompt, texts, st.booleans())
challenges = st.builds(
    Challenge, texts, texts, st.lists(prompts, max_size=MAX_PROMPTS).map(tuple)
)


def credentials(authorization: str) -> bytes:
    scheme, _, rest = authorization.partition(" ")
    assert scheme == SCHEME
    return rest.encode()


def encode(challenge: Challenge | Answers) -> str:
    return base64.b64encode(challenge.encode()).decode()


@given(challenges)
def test_a_challenge_arrives_as_it_was(challenge: Challenge) -> None:
    text = challenge_text(challenge)
    assert text.isascii()
    assert text.isprintable()
    assert read_challenge(text) == challenge


@given(st.lists(texts, max_size=MAX_PROMPTS))
def test_answers_arrive_as_they_were(answers: list[str]) -> None:
    raw = credentials(answer_authorization(answers))
    assert read_answers(raw, len(answers)) == tuple(map(encode_text, answers))
    with pytest.raises(InteractiveError):
        read_answers(raw, len(answers) + 1)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(raw: bytes) -> None:
    for text in (raw, base64.b64encode(raw)):
        with contextlib.suppress(InteractiveError):
            assert read_challenge(decode_text(text)).size() <= MAX_TEXT
        with contextlib.suppress(InteractiveError):
            assert len(read_answers(text, 1)) == 1


@given(challenges, st.integers(0, 400))
def test_what_is_cut_short_is_an_error(challenge: Challenge, at: int) -> None:
    raw = challenge.encode()
    cut = base64.b64encode(raw[: at % len(raw)]).decode()
    with pytest.raises(InteractiveError):
        read_challenge(cut)


def test_nobody_can_be_asked_too_much() -> None:
    just = Challenge("", "x" * (MAX_TEXT - 1), (Prompt("?", False),))
    assert read_challenge(challenge_text(just)) == just
    many = Challenge("", "", (Prompt("?", False),) * (MAX_PROMPTS + 1))
    for too_much in (many, Challenge("x", just.instruction, just.prompts)):
        with pytest.raises(InteractiveError):
            read_challenge(encode(too_much))
    with pytest.raises(InteractiveError):
        read_challenge(encode(Challenge("", "x" * MAX_TEXT * 9, ())))


def test_answers_have_a_bound_on_both_sides() -> None:
    longest = "x" * (MAX_ANSWERS - 3)
    assert read_answers(credentials(answer_authorization([longest])), 1) == (longest.encode(),)
    with pytest.raises(InteractiveError):
        answer_authorization([longest + "x"])
    with pytest.raises(InteractiveError):
        read_answers(encode(Answers((b"x" * MAX_ANSWERS * 2,))).encode(), 1)


@given(st.binary(max_size=60).map(decode_text), st.integers(-5, 80))
def test_a_clipped_text_is_a_beginning(text: str, size: int) -> None:
    clipped = encode_text(clip(text, size))
    assert encode_text(text).startswith(clipped)
    assert len(clipped) == min(len(encode_text(text)), max(0, size))
