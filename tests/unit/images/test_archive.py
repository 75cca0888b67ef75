"""Archives that are not as they should be, made by hand."""

import gzip
import io
import tarfile
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.images.archive import Archive, TarLimits, open_archive
from controlplane.images.context import receive_context
from controlplane.images.model import no_progress
from moorage.errors import InvalidSpec


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def make_tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 5000):
        yield data[start : start + 5000]


async def read(data: bytes, limits: TarLimits | None = None) -> Archive:
    archive = await open_archive(stream(data), limits or TarLimits(), no_progress)
    archive.file.close()
    return archive


async def reason(data: bytes, limits: TarLimits | None = None) -> str:
    with pytest.raises(InvalidSpec) as caught:
        await read(data, limits)
    return caught.value.reason


GOOD = make_tar(member("a/b", b"x" * 1000), member("c", b"y" * 512), member("d"))


async def test_a_good_one() -> None:
    archive = await read(GOOD)
    assert archive.count == 3
    assert archive.members is not None
    assert set(archive.members) == {"a/b", "c", "d"}
    assert GOOD[archive.end :].strip(b"\0") == b""


@given(st.integers(min_value=1, max_value=3 * 512 + 1024 + 512))
@settings(deadline=None, max_examples=60)
async def test_cut_anywhere_before_its_end_mark_is_noticed(length: int) -> None:
    # A little past the first end block is complete already: what is missing then is only padding.
    complete_from = 3 * 512 + 1024 + 512 + 512
    assert (await reason(GOOD[:length])) in ("TAR_TRUNCATED", "NOT_A_TAR")
    assert (await read(GOOD[:complete_from])).count == 3


@pytest.mark.parametrize("cut", [512, 1000, 1536, 2048, 2100, 2560, 3072])
async def test_cuts_after_the_first_header_are_called_truncated(cut: int) -> None:
    assert await reason(GOOD[:cut]) == "TAR_TRUNCATED"


@pytest.mark.parametrize(
    "data",
    [b"", b"\x7fELF" + bytes(5000), b"PK\x03\x04" + b"z" * 5000, b"x" * 100_000],
    ids=["empty", "elf", "zip", "text"],
)
async def test_what_is_no_tar(data: bytes) -> None:
    assert await reason(data) == "NOT_A_TAR"


async def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end() -> None:
    data = bytearray(GOOD)
    data[1536:1540] = b"\xff\xff\xff\xff"
    assert await reason(bytes(data)) == "NOT_A_TAR"


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a/..", "..", "//x"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_names_that_leave_the_root_are_refused(name: str, form: int) -> None:
    assert await reason(make_tar(member("ok"), member(name, b"1"), form=form)) == "TAR_UNSAFE_NAME"
    directory = member(name, type=tarfile.DIRTYPE)
    assert await reason(make_tar(directory, form=form)) == "TAR_UNSAFE_NAME"


async def test_long_names_that_climb_are_refused_too() -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert await reason(make_tar(member("a/" * 200 + "../x"), form=form)) == "TAR_UNSAFE_NAME"


async def test_dots_in_names_and_any_link_target_are_fine() -> None:
    archive = await read(
        make_tar(
            member("./a..b/...c"),
            member("link", type=tarfile.SYMTYPE, linkname="../../etc/passwd"),
            member("absolute", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            member("hard", type=tarfile.LNKTYPE, linkname="/a..b/...c"),
            member("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        )
    )
    assert archive.count == 5


async def test_links_are_followed_inside_the_archive_only() -> None:
    data = make_tar(
        member("one/layer.tar", b"layer"),
        member("two/layer.tar", type=tarfile.SYMTYPE, linkname="../one/layer.tar"),
        member("three/layer.tar", type=tarfile.LNKTYPE, linkname="one/layer.tar"),
        member("out", type=tarfile.SYMTYPE, linkname="../../../etc/passwd"),
        member("round", type=tarfile.SYMTYPE, linkname="round"),
    )
    archive = await open_archive(stream(data), TarLimits(), no_progress)
    try:
        for name in ("one/layer.tar", "two/layer.tar", "three/layer.tar", "./one/layer.tar"):
            found = archive.find(name)
            assert found is not None, name
            assert archive.read(found, 100) == b"layer"
        assert archive.find("out") is None
        assert archive.find("round") is None
    finally:
        archive.file.close()


def raw_header(name: bytes, size: bytes, kind: bytes) -> bytes:
    header = bytearray(512)
    header[0 : len(name)] = name
    header[100:108] = b"0000644\0"
    header[124:136] = size.ljust(12, b"\0")
    header[156:157] = kind
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"S"])
async def test_impossible_sizes_end_quickly(kind: bytes) -> None:
    negative = b"\xff" * 10 + b"\xfe\x00"  # base 256: -512, which would walk backwards for ever
    began = time.monotonic()
    huge = b"77777777777"
    for size in (negative, huge):
        data = raw_header(b"first", b"0", b"0") + raw_header(b"x", size, kind) + bytes(10240)
        assert await reason(data) in ("NOT_A_TAR", "TAR_TRUNCATED")
    assert time.monotonic() - began < 5


async def test_a_long_chain_of_extended_headers_is_refused() -> None:
    data = raw_header(b"x", b"0", b"x") * 5000 + bytes(10240)
    assert await reason(data) == "NOT_A_TAR"


async def test_limits() -> None:
    assert await reason(GOOD, TarLimits(max_upload_bytes=len(GOOD) - 1)) == "TAR_TOO_LARGE"
    assert await reason(GOOD, TarLimits(max_members=2)) == "TAR_TOO_LARGE"
    bomb = gzip.compress(make_tar(member("zeros", bytes(20_000_000))))
    assert len(bomb) < 100_000
    assert await reason(bomb, TarLimits(max_unpacked_bytes=5_000_000)) == "TAR_TOO_LARGE"
    assert await reason(gzip.compress(b"no tar inside" * 100)) == "NOT_A_TAR"
    assert await reason(gzip.compress(GOOD) + b"garbage") == "NOT_A_TAR"


async def test_gzip_in_several_parts_is_one_archive() -> None:
    archive = await read(gzip.compress(GOOD[:700]) + gzip.compress(GOOD[700:]) + bytes(100))
    assert archive.count == 3


async def test_many_members_are_not_all_remembered_but_those_asked_for_are() -> None:
    data = make_tar(*(member(f"f{n}") for n in range(20_500)), member("sub/Dockerfile", b"FROM scratch\n"))
    archive = await read(data)
    assert archive.count == 20_501
    assert archive.members is None
    context = await receive_context(stream(data), dockerfile_path="./sub/Dockerfile")
    try:
        assert context.dockerfile == "FROM scratch\n"
        assert sum([len(chunk) async for chunk in context.stream()]) == context.size_bytes
        assert data.startswith(b"".join([chunk async for chunk in context.stream()]))
    finally:
        context.close()


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
async def test_a_context_without_a_readable_dockerfile_is_refused(content: bytes | None) -> None:
    members = [member("x")] + ([member("Dockerfile", content)] if content is not None else [])
    with pytest.raises(InvalidSpec) as caught:
        await receive_context(stream(make_tar(*members)))
    assert caught.value.reason == "DOCKERFILE_MISSING"
