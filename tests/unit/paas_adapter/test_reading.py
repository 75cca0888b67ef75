"""Texts into plain values: where errors are, what is refused, what is kept as written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paas_adapter.documents.json_text import read_json
from paas_adapter.documents.places import Findings, Place
from paas_adapter.documents.reading import looks_like_json, read_sources
from paas_adapter.documents.values import MAX_DEPTH, MAX_TEXT, MAX_VALUES, Numeral, Value
from paas_adapter.documents.yaml_text import read_yaml

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def problem(content: bytes, file: str) -> tuple[str, str, int, int]:
    findings = Findings()
    assert read_sources(content, file, findings) == ()
    (found,) = findings.problems
    return found.reason, found.place.json_path, found.place.line, found.place.column


def plain(value: Value) -> object:
    match value:
        case Numeral(text):
            return json.loads(text)
        case list():
            return [plain(one) for one in value]
        case dict():
            return {key: plain(one) for key, one in value.items()}
    return value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": [1, 2,]}', ("NOT_JSON", "$.a", 1, 13)),
        ('{"a": 1,\n "b": 2,\n}', ("NOT_JSON", "$", 3, 1)),
        ('{"a": 1\n "b": 2}', ("NOT_JSON", "$", 2, 2)),
        ('{"a" 1}', ("NOT_JSON", "$.a", 1, 6)),
        ("{'a': 1}", ("NOT_JSON", "$", 1, 2)),
        ('{"a": NaN}', ("NOT_JSON", "$.a", 1, 7)),
        ('{"a": 01}', ("NOT_JSON", "$.a", 1, 7)),
        ('{"a": -}', ("NOT_JSON", "$.a", 1, 7)),
        ('{"a": tru}', ("NOT_JSON", "$.a", 1, 7)),
        ('{"a": "\n"}', ("NOT_JSON", "$.a", 1, 8)),
        ('{"a": "x', ("NOT_JSON", "$.a", 1, 7)),
        ('{"a": "\\ud800"}', ("NOT_JSON", "$.a", 1, 15)),
        ("{", ("NOT_JSON", "$", 1, 2)),
        ("[1", ("NOT_JSON", "$", 1, 3)),
        ("{} {}", ("NOT_JSON", "$", 1, 4)),
        ('{"a": {"b": 1,\n  "b": 2}}', ("DUPLICATE_KEY", "$.a.b", 2, 3)),
        ('{"a": [], "a": {}}', ("DUPLICATE_KEY", "$.a", 1, 11)),
        ("[" * (MAX_DEPTH + 2), ("TOO_DEEP", "$" + "[0]" * (MAX_DEPTH + 1), 1, MAX_DEPTH + 2)),
        (" \n", ("EMPTY", "$", 0, 0)),
    ],
)
def test_json_that_is_refused(text: str, expected: tuple[str, str, int, int]) -> None:
    assert problem(text.encode(), "a.json") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\nb: 2", ("NOT_YAML", "$", 2, 2)),
        ("a: 1\nb: 2\na: 3", ("DUPLICATE_KEY", "$.a", 3, 1)),
        ("a: !!python/object:os.system x", ("NOT_YAML", "$.a", 1, 4)),
        ("a: *b", ("NOT_YAML", "$.a", 1, 4)),
        ("? [a]\n: 1", ("NOT_YAML", "$", 1, 3)),
        ("- " * (MAX_DEPTH + 2) + "x", ("TOO_DEEP", "$" + "[0]" * (MAX_DEPTH + 1), 1, 2 * MAX_DEPTH + 3)),
        ("a: \x01", ("NOT_YAML", "$", 1, 0)),
    ],
)
def test_yaml_that_is_refused(text: str, expected: tuple[str, str, int, int]) -> None:
    assert problem(text.encode(), "a.yaml") == expected


def test_aliases_that_grow_without_bound_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert problem("\n".join(lines).encode(), "a.yml")[0] == "TOO_LARGE"


def test_what_is_too_large_or_no_text_is_refused() -> None:
    assert problem(b" " * (MAX_TEXT + 1), "a.json")[0] == "TOO_LARGE"
    assert problem(b"[" + b"1," * MAX_VALUES + b"1]", "a.json")[0] == "TOO_LARGE"
    assert problem(b"{\n\xff", "a.json") == ("NOT_UTF8", "$", 2, 0)


def test_numbers_keep_their_text_in_both() -> None:
    assert read_json('{"v": 7.10}', "a").root == {"v": Numeral("7.10")}
    assert read_yaml("v: 7.10", "a")[0].root == {"v": Numeral("7.10")}


def test_plain_words_of_yaml_are_what_json_would_have() -> None:
    (source,) = read_yaml("[yes, 1:30, 0777, 2026-01-01, true, ~, '1', 12, 1e3, .5]", "a")
    expected = ["yes", "1:30", "0777", "2026-01-01", True, None, "1", Numeral("12"), Numeral("1e3"), ".5"]
    assert source.root == expected


def test_several_documents_of_yaml() -> None:
    sources = read_yaml("a: &x [1]\nb: *x\n---\n---\nc: 2", "a")
    assert [source.root for source in sources] == [{"a": [Numeral("1")], "b": [Numeral("1")]}, {"c": Numeral("2")}]
    assert sources[1].place(("c",)) == Place("a", ("c",))
    assert (sources[1].place(("c", "d")).line, sources[1].place(("c", "d")).column) == (5, 4)


@pytest.mark.parametrize("text", ['{"a": [1], "b": 0, "a": [2]}', "a: [1]\nb: 0\na: [2]"])
def test_two_lists_under_the_same_key_are_one(text: str) -> None:
    findings = Findings()
    (source,) = read_sources(text.encode(), "a", findings)
    assert source.root == {"a": [Numeral("1"), Numeral("2")], "b": Numeral("0")}
    assert source.joined == (("a",),)
    assert source.place(("a", 1)).line > 0


def test_a_byte_order_mark_and_the_name_of_the_file() -> None:
    findings = Findings()
    assert read_sources(b"\xef\xbb\xbf{}", "x", findings)[0].root == {}
    assert looks_like_json(" {", "x")
    assert not looks_like_json("a: 1", "x")
    assert not looks_like_json("{", "x.YAML")
    assert looks_like_json("a: 1", "x.json")


@given(ANY_JSON)
def test_json_is_read_as_the_standard_library_does(value: object) -> None:
    assert plain(read_json(json.dumps(value), "a").root) == value
    assert plain(read_json(json.dumps(value, indent=2, ensure_ascii=False), "a").root) == value


@given(st.text() | st.text(alphabet='{}[]",:\\ ntu0-1.e&*!|>#\n'))
def test_any_text_is_read_or_refused(text: str) -> None:
    for name in ("a.json", "a.yaml"):
        findings = Findings()
        sources = read_sources(text.encode(errors="replace"), name, findings)
        assert not (sources and findings.problems)


@given(st.binary())
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    read_sources(content, "a", Findings())
