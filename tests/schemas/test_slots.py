"""Slots: the same share of the users in every language, for ever."""

import json
import re
from collections import Counter
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import SLOTS, slot_of

#: Users and their slots: other implementations are tested with the same.
VECTORS = {
    "user-1": 49,
    "ada": 63,
    "usr_01HZX3": 50,
    "a": 50,
    "é": 18,
    "e\u0301": 18,
    "Ω": 56,
    "株式会社": 57,
    "😀": 60,
    "org/7:member 12": 2,
}
CONTRACT = Path(__file__).parents[2] / "schemas" / "README.md"


@pytest.mark.parametrize(("user_id", "slot"), VECTORS.items())
def test_user_has_the_slot_of_the_contract(user_id: str, slot: int) -> None:
    assert slot_of(user_id) == slot


def test_contract_page_has_the_same_vectors() -> None:
    found = re.findall(r"^\| `(\".+?\")` \| (\d+) \|$", CONTRACT.read_text(), re.MULTILINE)
    assert {json.loads(user_id): int(slot) for user_id, slot in found} == VECTORS


@given(st.text(min_size=1, max_size=50))
def test_slot_is_one_of_64_and_the_same_in_each_normal_form(user_id: str) -> None:
    assert 0 <= slot_of(user_id) < SLOTS
    assert {slot_of(normalize(form, user_id)) for form in ("NFC", "NFD")} == {slot_of(user_id)}


def test_slots_share_the_users_evenly() -> None:
    users = Counter(slot_of(f"user-{number}") for number in range(64_000))
    assert len(users) == SLOTS
    assert 850 < min(users.values()) <= max(users.values()) < 1_150
