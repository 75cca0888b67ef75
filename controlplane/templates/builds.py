"""Has a host build an image or snapshot an instance, and push the result to the template's own repository."""

from collections.abc import AsyncIterator, Callable
from functools import partial

from controlplane.dispatch.tasks import BuildTask, HostTasks, SnapshotTask, TaskReport
from controlplane.domain.hosts import Host, HostAdminState, HostLinkState
from controlplane.domain.kinds import HOST, INSTANCE, TEMPLATE
from controlplane.domain.templates import DockerfileSource, SnapshotSource, Template, TemplateState
from controlplane.images.context import BuildContext, receive_context
from controlplane.images.dockerfile import inspect_dockerfile
from controlplane.images.model import ProgressCallback
from controlplane.services import lookup
from controlplane.services.templates import MadeImage
from controlplane.templates.importer import Importer
from moorage.clock import Clock
from moorage.errors import NotReady, NotSupported, Unavailable
from moorage.store.base import Store, View

TAG = "made"  # the tag that a host pushes to; the digest behind it is the template's identity
BUILD_SECONDS = 1800.0
DEFAULT_MEMORY_BYTES = 1 << 30
DEFAULT_CPU_MILLIS = 1000
_LOOK_SECONDS = 0.2
_MAY_COME_BACK = (HostLinkState.UP, HostLinkState.DISCONNECTED)  # after a while it is DOWN

OnReport = Callable[[str, TaskReport], None]  # hosts/{host}, what it says


class Builder:
    """Chooses the host and runs the task."""

    def __init__(self, store: Store, clock: Clock, tasks: HostTasks, importer: Importer) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._importer = importer

    async def build(
        self,
        template: Template,
        source: DockerfileSource,
        stream: AsyncIterator[bytes] | None,
        progress: ProgressCallback,
        on_report: OnReport,
    ) -> MadeImage:
        """Build a Dockerfile, with the context in `stream` if there is one.

        Raises:
            InvalidSpec: DOCKERFILE_INVALID, DOCKERFILE_MISSING, BUILD_FAILED and those of the context's tar.
            NotSupported: BUILDER_LACKS names what the engines' builder does not have.
            Unavailable: no host can build, or it went away.
        """
        context: BuildContext | None = None
        if stream is not None:
            context = await receive_context(stream, dockerfile_path=source.path or "Dockerfile", progress=progress)
        try:
            text = source.inline or (context.dockerfile if context is not None else "")
            bases = self._bases(template.project, text, source)
            host = await self._choose_host()
            task = BuildTask(
                template.repository,
                TAG,
                source.inline,
                source.path or "Dockerfile",
                context is not None,
                source.build_args,
                source.target,
                source.memory_bytes or DEFAULT_MEMORY_BYTES,
                source.cpu_millis or DEFAULT_CPU_MILLIS,
                source.egress,
                BUILD_SECONDS,
                bases,
            )
            # The host pushes at the end of it; a collection meanwhile would refuse that, or take half of it for garbage.
            async with self._importer.writing():
                await self._tasks.run(host.uid, task, partial(on_report, host.name), context)
        finally:
            if context is not None:
                context.close()
        return await self._importer.pushed(template.repository, TAG, host.name)

    async def snapshot(self, template: Template, source: SnapshotSource, on_report: OnReport) -> MadeImage:
        """Commit the files of an instance on its host.

        Raises:
            NotFound: the instance. NotReady: NO_CONTAINER. Unavailable: HOST_AWAY.
        """
        instance = lookup.instance(self._store.view(), template.project, source.instance.rpartition("/")[2])
        if not instance.host_uid or not instance.observed.container_id:
            raise NotReady(f"{instance.name} has no container", reason="NO_CONTAINER")
        task = SnapshotTask(instance.uid, template.repository, TAG, source.no_pause)
        host_name = f"hosts/{instance.host}"
        await self._wait_for(instance.host_uid)
        async with self._importer.writing():
            await self._tasks.run(instance.host_uid, task, partial(on_report, host_name))
        return await self._importer.pushed(template.repository, TAG, host_name, is_snapshot=True)

    def _bases(self, project_id: str, text: str, source: DockerfileSource) -> dict[str, str]:
        """FROM references that are templates of the project: to the digest-pinned image."""
        info = inspect_dockerfile(text, source.build_args)
        if info.buildkit_features:
            raise NotSupported(
                f"this Dockerfile needs {', '.join(info.buildkit_features)}, which the hosts' builder lacks",
                reason="BUILDER_LACKS",
                metadata={"features": ",".join(info.buildkit_features)},
            )
        view = self._store.view()
        found = {}
        for image in info.images:
            base = _template_called(view, project_id, image)
            if base is not None:
                found[image] = f"{base.repository}@{base.status.digest}"
        return found

    async def _choose_host(self) -> Host:
        """The connected host with the fewest instances; builds go where there is room.

        Hosts that were lost a moment ago are waited for: after a restart of ours they come back one by one.
        """
        while True:
            view = self._store.view()
            hosts = [found.value for found in view.all(HOST)]
            usable = [h for h in hosts if h.admin_state is HostAdminState.ENABLED and not h.conditions]
            able = [h for h in usable if h.link_state is HostLinkState.UP and self._tasks.is_connected(h.uid)]
            if able:
                return min(able, key=lambda host: (len(view.find(INSTANCE, "host", host.uid)), host.id))
            if not any(h.link_state in _MAY_COME_BACK for h in usable):
                raise Unavailable("no host is connected that could build; try again when one is", reason="NO_BUILDER")
            await self._clock.sleep(_LOOK_SECONDS)

    async def _wait_for(self, host_uid: str) -> None:
        """Wait for one host in the same way; the task says it when it does not come."""
        while not self._tasks.is_connected(host_uid):
            host = lookup.by_uid(self._store.view(), HOST, host_uid)
            if host is None or host.link_state not in _MAY_COME_BACK:
                return
            await self._clock.sleep(_LOOK_SECONDS)


def _template_called(view: View, project_id: str, image: str) -> Template | None:
    """A ready template of the project that a FROM means: by its own name, or by the reference that it was copied from."""
    name, _, tag = image.partition(":")
    found = view.get(TEMPLATE, f"{project_id}/{name}")
    if found is not None and tag in ("", "latest") and found.value.status.state is TemplateState.READY:
        return found.value
    for item in view.range(TEMPLATE, "", 1_000_000, f"{project_id}/"):
        repository = item.value.source.repository
        if repository is not None and repository.reference == image and item.value.status.state is TemplateState.READY:
            return item.value
    return None
