"""The codec: every supported hint there and back, growth of records, and clear refusals."""

import datetime
import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.codec import decoder, encoder, from_json, to_json
from moorage.errors import Internal

PetId = NewType("PetId", str)


class Mood(enum.Enum):
    CALM = "calm"
    WILD = "wild"


class Level(enum.IntEnum):
    LOW = 100
    HIGH = 200


class Colour(enum.StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Tag:
    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Pet:
    id: PetId
    age: int
    weight: float
    is_tame: bool
    mood: Mood
    level: Level
    born_at: datetime.datetime
    nothing: None = None
    nickname: str | None = None
    old_style: Optional[int] = None  # noqa: UP045 - the form itself is under test
    size: Literal["small", "large"] = "small"
    mixed: str | int | None = None
    tags: tuple[Tag, ...] = ()
    names: Sequence[str] = ()
    pair: tuple[str, int] = ("", 0)
    nothing_at_all: tuple[()] = ()
    marks: frozenset[Level] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    by_id: dict[PetId, tuple[Tag, ...]] = field(default_factory=dict)
    friend: "Pet | None" = None
    grid: tuple[tuple[int, ...], ...] = ()
    bounded: Annotated[int, "0-9"] = 0
    extra: Any = None


NOON = datetime.datetime(2026, 1, 2, 12, 0, 0, 5, tzinfo=datetime.UTC)
SMALL = Pet(PetId("p1"), 3, 1.5, True, Mood.CALM, Level.HIGH, NOON)
LARGE = Pet(
    PetId("p2"),
    -1,
    0.0,
    False,
    Mood.WILD,
    Level.LOW,
    NOON,
    nickname="Ä\ud800\0",
    old_style=0,
    size="large",
    mixed=5,
    tags=(Tag("a"), Tag("b", 2.5)),
    names=("x", "y"),
    pair=("q", 7),
    marks=frozenset({Level.HIGH, Level.LOW}),
    labels={"k": "v"},
    by_id={PetId("p1"): (Tag("z"),)},
    friend=SMALL,
    grid=((1, 2), (), (3,)),
    bounded=4,
    extra={"any": [1, None]},
)


@pytest.mark.parametrize("pet", [SMALL, LARGE])
def test_there_and_back_through_text(pet: Pet) -> None:
    text = json.dumps(to_json(pet), allow_nan=False)
    again = from_json(Pet, json.loads(text))
    assert again == pet
    assert type(again.names) is tuple


def test_the_form_is_plain() -> None:
    data = to_json(LARGE)
    assert data["mood"] == "WILD"
    assert data["level"] == "LOW"
    assert data["marks"] == ["HIGH", "LOW"]  # sorted: the same set gives the same text
    assert data["born_at"] == "2026-01-02T12:00:00.000005+00:00"
    assert data["tags"] == [{"name": "a", "weight": 1.0}, {"name": "b", "weight": 2.5}]
    assert data["by_id"] == {"p1": [{"name": "z", "weight": 1.0}]}
    assert data["friend"]["id"] == "p1"


def test_times_are_kept_in_utc() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert to_json(NOON.astimezone(zone)) == to_json(NOON)
    read = from_json(datetime.datetime, "2026-01-02T14:00:00+02:00")
    assert read.tzinfo is datetime.UTC
    assert read.hour == 12
    assert from_json(datetime.datetime, "2026-01-02T12:00:00Z") == read


def test_records_grow_and_shrink() -> None:
    assert from_json(Tag, {"name": "a", "colour": "red"}) == Tag("a")
    assert from_json(Tag, {"name": "a", "weight": 2}) == Tag("a", 2.0)
    with pytest.raises(Internal, match=r"Tag\.name: missing") as raised:
        from_json(Tag, {"weight": 1.0})
    assert raised.value.reason == "RECORD_UNREADABLE"


def test_a_default_factory_makes_a_value_of_its_own() -> None:
    @dataclass(frozen=True)
    class Bag:
        content: dict[str, str] = field(default_factory=dict)

    first, second = from_json(Bag, {}), from_json(Bag, {})
    assert first == Bag()
    assert first.content is not second.content


def test_fields_by_name_only_and_fields_not_of_the_constructor() -> None:
    @dataclass(frozen=True)
    class Odd:
        late: int = field(kw_only=True)
        early: int = 1
        derived: int = field(init=False, default=9)

    data = to_json(Odd(3, late=2))
    assert data == {"late": 2, "early": 3}
    assert from_json(Odd, data) == Odd(3, late=2)


@dataclass(frozen=True)
class Node:
    name: str
    children: "tuple[Node, ...]" = ()
    other: "Leaf | None" = None


@dataclass(frozen=True)
class Leaf:
    owner: Node | None = None


def test_records_that_contain_each_other() -> None:
    tree = Node("r", (Node("a"), Node("b", (Node("c"),), Leaf(Node("d")))))
    assert from_json(Node, to_json(tree)) == tree


def test_a_subclass_of_a_scalar_becomes_the_scalar() -> None:
    data = to_json(Tag(Colour.RED, weight=1))
    assert type(data["name"]) is str
    assert type(data["weight"]) is float
    assert data == {"name": "red", "weight": 1.0}
    assert type(to_json(Level.LOW, int)) is int
    assert to_json(Level.LOW) == "LOW"


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (str, 1),
        (str, None),
        (int, "1"),
        (int, 1.0),
        (float, float("nan")),
        (float, float("inf")),
        (float, 10**400),
        (bool, 1),
        (type(None), 0),
        (Mood, "CALM"),
        (Mood, Level.LOW),
        (Literal["a", "b"], "c"),
        (str | int, 1.5),
        (tuple[int, ...], [1]),
        (tuple[int, ...], ("1",)),
        (tuple[str, int], ("a",)),
        (tuple[str, int], ("a", "b")),
        (frozenset[str], {"a"}),
        (Mapping[str, int], {1: 1}),
        (Mapping[str, int], {"a": None}),
        (Mapping[str, int], [("a", 1)]),
        (Tag, SMALL),
        (Tag, {"name": "a"}),
        (Tag, Tag(5)),  # type: ignore[arg-type]
        (datetime.datetime, NOON.replace(tzinfo=None)),
        (datetime.datetime, 0),
    ],
)
def test_what_could_not_be_read_back_is_not_written(hint: Any, value: Any) -> None:
    with pytest.raises(Internal) as raised:
        to_json(value, hint)
    assert raised.value.reason == "RECORD_UNWRITABLE"


@pytest.mark.parametrize(
    ("hint", "data"),
    [
        (str, 1),
        (int, "1"),
        (float, "x"),
        (bool, "true"),
        (Mood, "calm"),
        (Mood, ["CALM"]),
        (Mood, 1),
        (Literal["a", "b"], "c"),
        (Literal["a", "b"], []),
        (tuple[int, ...], "abc"),
        (tuple[int, ...], {"a": 1}),
        (tuple[str, int], ["a"]),
        (frozenset[str], [1]),
        (Mapping[str, int], []),
        (Mapping[str, int], {"a": "b"}),
        (Tag, []),
        (Tag, None),
        (Tag, {"name": None}),
        (datetime.datetime, "noon"),
        (datetime.datetime, 5),
        (datetime.datetime, "2026-01-02T12:00:00"),
    ],
)
def test_what_does_not_fit_is_not_read(hint: Any, data: Any) -> None:
    with pytest.raises(Internal) as raised:
        from_json(hint, data)
    assert raised.value.reason == "RECORD_UNREADABLE"


def test_errors_name_the_place_and_hide_the_value() -> None:
    with pytest.raises(Internal, match=r"^Tag\.weight: expected a finite number, found a str$"):
        from_json(Tag, {"name": "a", "weight": "secret"})


class Permission(enum.Flag):
    READ = 1


@dataclass(frozen=True)
class Unknown:
    of: "NoSuchName"  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    "hint",
    [list[int], set[str], bytes, complex, Node | Tag, Mapping[int, str], Permission, Unknown, tuple, dict, type],
)
def test_unsupported_hints_are_told_at_once(hint: Any) -> None:
    for compile_one in (encoder, decoder):
        for _ in range(2):  # the second time too: nothing half made is kept
            with pytest.raises(Internal) as raised:
                compile_one(hint)
            assert raised.value.reason == "RECORD_TYPE_UNSUPPORTED"


def test_an_unsupported_hint_does_not_harm_what_was_compiled_before_or_comes_after() -> None:
    @dataclass(frozen=True)
    class Inner:
        name: str

    @dataclass(frozen=True)
    class Broken:
        inner: Inner
        bad: list[int]

    encode_pet = encoder(Pet)
    with pytest.raises(Internal):
        encoder(Broken)
    assert encoder(Inner)(Inner("a")) == {"name": "a"}
    assert encoder(tuple[Inner, ...])((Inner("a"),)) == [{"name": "a"}]
    assert encode_pet(LARGE) == to_json(LARGE)


def test_one_function_for_each_hint() -> None:
    assert encoder(Pet) is encoder(Pet)
    assert decoder(tuple[Tag, ...]) is decoder(tuple[Tag, ...])


pets = st.builds(
    Pet,
    id=st.text().map(PetId),
    age=st.integers(),
    weight=st.floats(allow_nan=False, allow_infinity=False),
    is_tame=st.booleans(),
    mood=st.sampled_from(Mood),
    level=st.sampled_from(Level),
    born_at=st.datetimes(timezones=st.just(datetime.UTC)),
    nickname=st.none() | st.text(),
    mixed=st.none() | st.text() | st.integers(),
    tags=st.lists(st.builds(Tag, st.text(), st.floats(0, 1))).map(tuple),
    marks=st.frozensets(st.sampled_from(Level)),
    labels=st.dictionaries(st.text(), st.text()),
    friend=st.none() | st.just(SMALL),
    grid=st.lists(st.lists(st.integers()).map(tuple)).map(tuple),
)


@given(pet=pets)
def test_any_pet_comes_back(pet: Pet) -> None:
    assert from_json(Pet, json.loads(json.dumps(to_json(pet)))) == pet
