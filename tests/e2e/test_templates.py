"""Templates from every source, as a user registers them, and what is left of one that fails or is deleted."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.errors import InvalidSpec, MoorageError, NotFound, NotReady
from moorage.v1 import instances_pb2 as pb
from moorage.v1 import operations_pb2, templates_pb2
from tests.support.plane import RUNNING, STAY, Plane, pieces_of, tar_of, until

Source = templates_pb2.TemplateSource


def dockerfile(text: str, **fields: Any) -> Source:
    """A Dockerfile given as text."""
    return Source(dockerfile=templates_pb2.DockerfileSource(inline=text, **fields))


def check_progress(seen: list[operations_pb2.Operation]) -> None:
    """Percent never fell, and was 100 only at the end."""
    percents = [operation.percent for operation in seen]
    assert percents == sorted(percents), percents
    assert percents[-1] == 100
    assert all(
        operation.percent < 100 for operation in seen if operation.state == operations_pb2.OPERATION_STATE_RUNNING
    )


async def made(plane: Plane, template_id: str, operation: operations_pb2.Operation) -> templates_pb2.Template:
    """The template at the end of an operation, which must go well."""
    _, seen = await plane.finish(operation)
    check_progress(seen)
    template = await plane.get_template(template_id)
    assert template.status.state == templates_pb2.TEMPLATE_STATE_READY
    assert template.status.digest.startswith("sha256:")
    assert template.status.size_bytes > 0
    assert list(template.status.platforms) == ["linux/amd64"]
    return template


async def says(plane: Plane, template_id: str, command: str) -> str:
    """What a command prints in an instance of a template."""
    name = f"of-{template_id}"
    await plane.run({name: plane.spec(template=template_id)})
    code, output = await plane.exec(name, ["/bin/sh", "-c", command])
    assert code == 0, output
    return output.strip()


async def test_from_a_repository(plane: Plane, fleet: Fleet, hosts: list[Host], rootfs: Path) -> None:
    """From a registry elsewhere: pushed there by an engine, copied by the control plane, run on every host."""
    reference = f"{fleet.config.sample_registry_address}/team/app:1"
    await hosts[0].docker("import", "--change", "ENV FROM=registry", str(rootfs), reference)
    await hosts[0].docker("push", reference)
    await hosts[0].docker("rmi", reference)
    source = Source(repository=templates_pb2.RepositorySource(reference=reference, plain_http=True))
    await made(plane, "pulled", await plane.create_template("pulled", source))
    await plane.run({f"p{n}": plane.spec(template="pulled", host=n) for n in (1, 2, 3)})
    assert await plane.exec("p3", ["/bin/sh", "-c", "echo $FROM"]) == (0, "registry\n")


async def test_what_cannot_be_pulled(plane: Plane, fleet: Fleet) -> None:
    """Nothing is left of it but its operation."""
    registry = fleet.config.sample_registry_address
    cases: dict[str, tuple[type[MoorageError], str]] = {
        f"{registry}/no/such:thing": (NotFound, "IMAGE_NOT_FOUND"),
        "NOT//a reference": (InvalidSpec, "REFERENCE_INVALID"),
        "127.0.0.1:1/x": (MoorageError, ""),
        "registry.invalid/x:1": (MoorageError, ""),
    }
    for reference, (error, reason) in cases.items():
        source = Source(
            repository=templates_pb2.RepositorySource(reference=reference, plain_http=registry in reference)
        )
        with pytest.raises(error) as refused:
            await plane.finish(await plane.create_template("missing", source))
        assert reason in ("", refused.value.reason), reference
        await is_gone(plane, "missing")


async def is_gone(plane: Plane, template_id: str) -> None:
    """Wait until nothing is left of a template."""

    async def look() -> bool:
        return plane.name("templates", template_id) not in await plane.templates()

    await until(look, what=f"the end of {template_id}")


async def test_from_tars_of_both_forms(plane: Plane, hosts: list[Host], rootfs: Path, tmp_path: Path) -> None:
    """A root file system, and what `docker save` writes: with its own command, environment and layers."""
    defaults = templates_pb2.TemplateDefaults(command=["/bin/sh", "-c", STAY], env={"FROM": "defaults"})
    await made(plane, "root", await plane.upload("root", pieces_of(rootfs), defaults=defaults))
    spec = plane.spec(template="root")
    spec.ClearField("command")
    await plane.run({"by-default": spec})
    assert await plane.exec("by-default", ["/bin/sh", "-c", "echo $FROM"]) == (0, "defaults\n")

    saved = tmp_path / "saved.tar"
    await hosts[0].docker("import", "--change", "ENV FROM=save", str(rootfs), "local/saved")
    await hosts[0].docker("save", "-o", str(saved), "local/saved")
    await hosts[0].docker("rmi", "local/saved")
    template = await made(plane, "saved", await plane.upload("saved", pieces_of(saved)))
    assert template.status.image.env["FROM"] == "save"
    assert await says(plane, "saved", "echo $FROM") == "save"


def link_to(name: str, target: str) -> bytes:
    """A tar with a symbolic link, and a program beside it."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.SYMTYPE, target
        archive.addfile(member)
    return output.getvalue()


async def test_bad_tars(plane: Plane, rootfs: Path) -> None:
    """Each has its reason, and nothing of it is left."""
    whole = rootfs.read_bytes()
    cases: dict[str, tuple[Iterable[bytes], str]] = {
        "truncated": ([whole[: len(whole) // 2]], "TAR_TRUNCATED"),
        "no-tar": ([b"this is no tar\n" * 1000], "NOT_A_TAR"),
        "nothing": ([], "NOT_A_TAR"),
        "absolute": ([tar_of({"/etc/passwd": b"x"})], "TAR_UNSAFE_NAME"),
        "climbs-out": ([tar_of({"a/../../etc/passwd": b"x"})], "TAR_UNSAFE_NAME"),
    }
    for template_id, (content, reason) in cases.items():
        with pytest.raises(InvalidSpec) as refused:
            await plane.finish(await plane.upload(template_id, content))
        assert refused.value.reason == reason, template_id
        await is_gone(plane, template_id)
    # A link's target is data: it is resolved in the instance, never by us.
    await made(plane, "linked", await plane.upload("linked", [link_to("etc", "/../../outside")]))


async def test_from_a_dockerfile_as_text(plane: Plane) -> None:
    """From another template of the project, with RUN, and its own command."""
    text = f"""FROM {plane.template}
ARG WORD=nothing
ENV FROM=dockerfile
RUN echo "$WORD was built" >/built && mkdir /srv
WORKDIR /srv
CMD ["/bin/sh", "-c", "echo started; exec sleep 1000"]
"""
    source = dockerfile(text, build_args={"WORD": "it"})
    template = await made(plane, "built", await plane.create_template("built", source))
    assert template.status.built_on
    assert template.status.image.workdir == "/srv"
    assert await says(plane, "built", "cat /built; echo $FROM; pwd") == "it was built\ndockerfile\n/srv"
    done = await plane.client.operations.GetOperation(
        operations_pb2.GetOperationRequest(name=template.status.operation)
    )
    assert "RUN echo" in done.log


async def test_from_a_directory(plane: Plane, rootfs: Path) -> None:
    """The context comes as a stream, and everything is in it: FROM scratch."""
    text = b"FROM scratch\nADD rootfs.tar /\nCOPY note /note\n"
    context = tar_of({"sub/Containerfile": text, "rootfs.tar": rootfs.read_bytes(), "note": b"hello\n"})
    source = Source(dockerfile=templates_pb2.DockerfileSource(path="sub/Containerfile"))
    await made(plane, "sent", await plane.upload("sent", [context], source=source))
    assert await says(plane, "sent", "cat /note") == "hello"


async def test_dockerfiles_that_fail(plane: Plane) -> None:
    """The log stays with the operation; what the builder lacks is named; nothing of the template is left."""
    cases: dict[str, tuple[str, type[MoorageError], str]] = {
        "run-fails": (f"FROM {plane.template}\nRUN echo before && false\n", InvalidSpec, "BUILD_FAILED"),
        "no-dockerfile": ("this is no Dockerfile\n", InvalidSpec, ""),
        "needs-buildkit": (
            f"FROM {plane.template}\nRUN --mount=type=cache,target=/x true\n",
            NotReady,
            "BUILDER_LACKS",
        ),
    }
    for template_id, (text, error, reason) in cases.items():
        with pytest.raises(error) as refused:
            await plane.finish(await plane.create_template(template_id, dockerfile(text)))
        assert reason in ("", refused.value.reason), (template_id, refused.value)
        await is_gone(plane, template_id)
        if template_id == "run-fails":
            request = operations_pb2.GetOperationRequest(name=refused.value.metadata["operation"])
            assert "before" in (await plane.client.operations.GetOperation(request)).log
        if template_id == "needs-buildkit":
            assert "RUN --mount" in refused.value.message


async def test_from_a_snapshot(plane: Plane) -> None:
    """The files of a running instance, which runs on."""
    before = (await plane.run({"origin": plane.spec("echo kept >/kept; " + STAY)}))["origin"]
    code, _ = await plane.exec("origin", ["/bin/sh", "-c", "echo later >>/kept"])
    assert code == 0
    source = Source(snapshot=templates_pb2.SnapshotSource(instance=before.name))
    template = await made(plane, "snapped", await plane.create_template("snapped", source))
    assert template.status.built_on == before.status.host
    await plane.delete(["origin"])
    await plane.run({f"s{n}": plane.spec(template="snapped", host=n) for n in (1, 2)})
    for n in (1, 2):
        assert await plane.exec(f"s{n}", ["cat", "/kept"]) == (0, "kept\nlater\n")


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def test_deleting_a_template_frees_its_space(plane: Plane, fleet: Fleet, rootfs: Path) -> None:
    """In the registry's folder; layers that another template shares stay, and it still runs on a host that is new to it."""
    folder = fleet.config.controlplane_folder / "data/registry"
    before = size_of(folder)
    text = f"FROM {plane.template}\nRUN dd if=/dev/urandom of=/big bs=1M count=8\n"
    await made(plane, "big", await plane.create_template("big", dockerfile(text)))
    assert size_of(folder) > before + (8 << 20)
    await plane.delete_template("big")
    assert size_of(folder) < before + (1 << 20)
    made_of_web = await plane.run({f"w{n}": plane.spec(host=n) for n in (1, 2, 3)})
    assert {instance.status.state for instance in made_of_web.values()} == {RUNNING}


async def test_a_template_that_is_not_ready_is_not_used(plane: Plane) -> None:
    """And one that is cancelled is gone."""
    text = f"FROM {plane.template}\nRUN sleep 20\n"
    operation = await plane.create_template("slow", dockerfile(text))
    with pytest.raises(MoorageError) as refused:
        await plane.client.instances.CreateInstance(
            pb.CreateInstanceRequest(parent=plane.project, instance=pb.Instance(spec=plane.spec(template="slow")))
        )
    assert refused.value.reason == "TEMPLATE_NOT_READY"
    await plane.client.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
    with pytest.raises(MoorageError) as cancelled:
        await plane.finish(operation)
    assert cancelled.value.reason == "CANCELLED"
    await is_gone(plane, "slow")
