"""From a text to its documents as plain values: JSON or YAML, by the look of it. The first thing that happens to what a user sends."""

from paas_adapter.documents.json_text import read_json
from paas_adapter.documents.places import Findings, Place
from paas_adapter.documents.values import MAX_TEXT, Source, Unreadable
from paas_adapter.documents.yaml_text import read_yaml


def looks_like_json(text: str, file: str) -> bool:
    """Whether it is to be read as JSON: its name says so, or, with neither name, its first character does.

    YAML would read most JSON too, and forgive what JSON does not, such as a comma too many.
    """
    name = file.lower()
    if name.endswith(".json"):
        return True
    if name.endswith((".yaml", ".yml")):
        return False
    return text.lstrip()[:1] in ("{", "[")


def decode(content: bytes, file: str, findings: Findings) -> str | None:
    """The text of a file, a byte order mark left out; None after a problem."""
    if len(content) > MAX_TEXT:
        findings.refuse(Place(file), "TOO_LARGE", f"longer than {MAX_TEXT} bytes")
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        findings.refuse(Place(file, (), line, 0), "NOT_UTF8", "not a text in UTF-8")
        return None


def read_sources(content: bytes, file: str, findings: Findings) -> tuple[Source, ...]:
    """The documents of a file; none after a problem. Never raises."""
    text = decode(content, file, findings)
    if text is None:
        return ()
    if not text.strip():
        findings.refuse(Place(file), "EMPTY", "nothing in it")
        return ()
    try:
        if looks_like_json(text, file):
            return (read_json(text, file),)
        return read_yaml(text, file)
    except Unreadable as bad:
        findings.refuse(Place(file, bad.path, bad.line, bad.column), bad.reason, bad.message)
        return ()
