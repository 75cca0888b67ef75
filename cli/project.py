"""project: tenants, with their members, quota and policy."""

from typing import Any

import click
from google.protobuf import field_mask_pb2

from cli.names import project_name, short
from cli.output import Column, age, enum_word, output_option, print_list, print_one
from cli.run_options import many
from cli.session import Session, pass_session
from cli.spec import duration
from moorage.client import Client, paginate
from moorage.errors import InvalidSpec
from moorage.ids import new_id
from moorage.units import format_bytes, format_cpu, parse_bytes, parse_cpu
from moorage.v1 import projects_pb2

_ROLES = {
    "viewer": projects_pb2.ROLE_VIEWER,
    "operator": projects_pb2.ROLE_OPERATOR,
    "admin": projects_pb2.ROLE_ADMIN,
}


def _of(used: int, limit: int, render: Any = str) -> str:
    return f"{render(used)}/{render(limit)}" if limit else render(used)


COLUMNS = (
    Column("NAME", lambda project: short(project.name)),
    Column("INSTANCES", lambda project: _of(project.usage.instances, project.quota.instances)),
    Column("CPU", lambda project: _of(project.usage.cpu_millis, project.quota.cpu_millis, format_cpu)),
    Column("MEMORY", lambda project: _of(project.usage.memory_bytes, project.quota.memory_bytes, format_bytes)),
    Column("TEMPLATES", lambda project: _of(project.usage.templates, project.quota.templates)),
    Column("NETWORKS", lambda project: _of(project.usage.networks, project.quota.networks)),
    Column("AGE", lambda project: age(project.create_time)),
    Column("ADDRESSES", lambda project: _of(project.usage.addresses, project.quota.addresses), wide=True),
    Column("VOLUMES", lambda project: _of(project.usage.volumes, project.quota.volumes), wide=True),
    Column("DESCRIPTION", lambda project: project.description, wide=True),
)

MEMBER_COLUMNS = (
    Column("USER", lambda member: short(member.name)),
    Column("ROLE", lambda member: enum_word(projects_pb2.Role, member.role).lower()),
)


@click.group("project")
def project() -> None:
    """Projects: tenants, with their members, quota and policy."""


@project.command("create")
@click.argument("name")
@click.option("--description", default="", metavar="TEXT", help="For people.")
@output_option("name")
@pass_session
def create(session: Session, name: str, description: str, output: str) -> None:
    """Make a project."""

    async def work(client: Client) -> projects_pb2.Project:
        request = projects_pb2.CreateProjectRequest(
            project_id=short(name), project=projects_pb2.Project(description=description), request_id=new_id()
        )
        return await client.projects.CreateProject(request)

    print_one(session.run(work), COLUMNS, output)


@project.command("ls")
@output_option()
@pass_session
def ls(session: Session, output: str) -> None:
    """List the projects that you may see, with what they use of their quota."""

    async def work(client: Client) -> list[projects_pb2.Project]:
        request = projects_pb2.ListProjectsRequest()
        return [found async for found in paginate(client.projects.ListProjects, request, lambda page: page.projects)]

    print_list(session.run(work), COLUMNS, output)


@project.command("get")
@click.argument("name")
@output_option("yaml")
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one project with its quota and policy."""

    async def work(client: Client) -> projects_pb2.Project:
        return await client.projects.GetProject(projects_pb2.GetProjectRequest(name=project_name(name)))

    print_one(session.run(work), COLUMNS, output)


def apply_changes(project: projects_pb2.Project, options: dict[str, Any]) -> list[str]:
    """Work the options into a project; the mask of what they touch. What they do not name stays."""
    before = projects_pb2.Project()
    before.CopyFrom(project)
    if options["description"] is not None:
        project.description = options["description"]
    for field in ("instances", "addresses", "templates", "networks", "volumes"):
        if options[field] is not None:
            setattr(project.quota, field, options[field])
    if options["cpu"] is not None:
        project.quota.cpu_millis = parse_cpu(options["cpu"])
    if options["memory"] is not None:
        project.quota.memory_bytes = parse_bytes(options["memory"], field="memory")
    if options["volume_bytes"] is not None:
        project.quota.volume_bytes = parse_bytes(options["volume_bytes"], field="volume-bytes")
    if options["allow_privileged"] is not None:
        project.policy.allow_privileged = options["allow_privileged"]
    if options["undelete_window"] is not None:
        project.undelete_window.CopyFrom(duration("undelete-window", options["undelete_window"]))
    if options["max_priority"] is not None:
        project.policy.max_priority = options["max_priority"]
    lists: dict[str, Any] = {
        "allowed_host_paths": project.policy.allowed_host_paths,
        "allowed_devices": project.policy.allowed_devices,
        "allowed_capabilities": project.policy.allowed_capabilities,
        "allowed_bridges": project.policy.allowed_bridges,
        "allowed_nics": project.policy.allowed_nics,
        "allowed_device_kinds": project.policy.allowed_device_kinds,
    }
    for field, target in lists.items():
        if options[field]:
            del target[:]
            target.extend(word for word in options[field] if word != "none")
    changed = {
        "description": project.description != before.description,
        "quota": project.quota != before.quota,
        "policy": project.policy != before.policy,
        "undelete_window": project.undelete_window != before.undelete_window,
    }
    return [path for path, is_changed in changed.items() if is_changed]


@project.command("update")
@click.argument("name")
@click.option("--description", metavar="TEXT", help="For people.")
@click.option("--instances", type=click.IntRange(min=0), help="Quota; 0 is unlimited, here and below.")
@click.option("--cpu", metavar="N", help="Quota of reserved cores.")
@click.option("--memory", metavar="BYTES", help="Quota of reserved memory.")
@click.option("--addresses", type=click.IntRange(min=0), help="Quota.")
@click.option("--templates", type=click.IntRange(min=0), help="Quota.")
@click.option("--networks", type=click.IntRange(min=0), help="Quota.")
@click.option("--volumes", type=click.IntRange(min=0), help="Quota.")
@click.option("--volume-bytes", metavar="BYTES", help="Quota of the sizes of volumes; each must have one then.")
@click.option("--allow-privileged/--no-allow-privileged", default=None, help="Policy: privileged containers.")
@many("--allow-host-path", "allowed_host_paths", metavar="PATH", text="Policy: all paths that may be mounted, or none.")
@many("--allow-device", "allowed_devices", metavar="PATH", text="Policy: all device nodes that may be used, or none.")
@many("--allow-capability", "allowed_capabilities", metavar="CAP", text="Policy: all that may be added, or none.")
@many("--allow-bridge", "allowed_bridges", metavar="BRIDGE", text="Policy: all for shared networks, or none.")
@many("--allow-nic", "allowed_nics", metavar="NIC", text="Policy: all NICs of hosts for shared networks, or none.")
@many("--allow-device-kind", "allowed_device_kinds", metavar="KIND", text="Policy: all, such as gpu; ALL, or none.")
@click.option("--undelete-window", metavar="TIME", help="For how long what is deleted is kept, such as 1h; 0s: not.")
@click.option("--max-priority", type=click.IntRange(min=0), help="Policy: highest priority of placement.")
@output_option("yaml")
@pass_session
def update(session: Session, /, name: str, output: str, **options: Any) -> None:
    """Change a project's quota or policy; for fleet admins."""
    if not any(value not in (None, ()) for value in options.values()):
        raise click.UsageError("nothing to change: give an option")

    async def work(client: Client) -> projects_pb2.Project:
        found = await client.projects.GetProject(projects_pb2.GetProjectRequest(name=project_name(name)))
        paths = apply_changes(found, options)
        if not paths:
            return found
        # With the etag that was read: a change by someone else in between is refused, not lost.
        mask = field_mask_pb2.FieldMask(paths=paths)
        return await client.projects.UpdateProject(projects_pb2.UpdateProjectRequest(project=found, update_mask=mask))

    print_one(session.run(work), COLUMNS, output)


@project.command("rm")
@click.argument("names", nargs=-1, required=True)
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Delete empty projects."""

    async def work(client: Client) -> None:
        for name in names:
            await client.projects.DeleteProject(projects_pb2.DeleteProjectRequest(name=project_name(name)))
            click.echo(f"Deleted {short(name)}.")

    session.run(work)


@project.group("member")
def member() -> None:
    """Who may do what in a project."""


def _member_name(project: str, user: str) -> str:
    if "/" in user:
        raise InvalidSpec.of("user", f"{user!r} is no user's name")
    return f"{project_name(project)}/members/{user}"


@member.command("set")
@click.argument("project_text", metavar="PROJECT")
@click.argument("user")
@click.argument("role", type=click.Choice(list(_ROLES)))
@output_option()
@pass_session
def member_set(session: Session, project_text: str, user: str, role: str, output: str) -> None:
    """Give a user a role in a project."""

    async def work(client: Client) -> projects_pb2.Member:
        wanted = projects_pb2.Member(name=_member_name(project_text, user), role=_ROLES[role])
        return await client.projects.SetMember(projects_pb2.SetMemberRequest(member=wanted))

    print_one(session.run(work), MEMBER_COLUMNS, output)


@member.command("ls")
@click.argument("project_text", metavar="PROJECT")
@output_option()
@pass_session
def member_ls(session: Session, project_text: str, output: str) -> None:
    """List the members of a project."""

    async def work(client: Client) -> list[projects_pb2.Member]:
        request = projects_pb2.ListMembersRequest(parent=project_name(project_text))
        return [found async for found in paginate(client.projects.ListMembers, request, lambda page: page.members)]

    print_list(session.run(work), MEMBER_COLUMNS, output)


@member.command("rm")
@click.argument("project_text", metavar="PROJECT")
@click.argument("user")
@pass_session
def member_rm(session: Session, project_text: str, user: str) -> None:
    """Take a user's role away."""

    async def work(client: Client) -> None:
        name = _member_name(project_text, user)
        await client.projects.DeleteMember(projects_pb2.DeleteMemberRequest(name=name))
        click.echo(f"{user} has no role in {short(project_text)} any more.")

    session.run(work)
