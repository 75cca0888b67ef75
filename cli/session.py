"""What every command needs: which control plane, key and project, and a way to run a coroutine with a client."""

import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.contexts import DEFAULT_PROJECT, Context, config_path, load
from cli.names import in_project, project_name
from moorage.errors import InvalidSpec, Unauthenticated

if TYPE_CHECKING:
    from moorage.client import Client

T = TypeVar("T")


@dataclass
class Session:
    """One call of moor. Options win over the environment, which wins over the context."""

    project_option: str | None = None
    context_option: str | None = None
    debug: bool = False
    trace_id: str = field(default_factory=lambda: os.urandom(16).hex())
    _context: Context | None = None

    def context(self) -> Context:
        """The control plane to work with.

        Raises:
            Unauthenticated: there is none.
        """
        if self._context is None:
            self._context = self._find_context()
        return self._context

    def _find_context(self) -> Context:
        environment = os.environ
        address = environment.get("MOORAGE_ADDRESS", "")
        remembered = None if address and not self.context_option else load(config_path()).get(self.context_option or "")
        if remembered is None and not address:
            raise Unauthenticated(
                "no control plane is known; log in with `moor login ADDRESS` or set MOORAGE_ADDRESS",
                reason="NOT_LOGGED_IN",
            )
        base = remembered or Context(address=address)
        ca_file = environment.get("MOORAGE_CA_FILE", "")
        return Context(
            address=base.address,
            api_key=environment.get("MOORAGE_API_KEY") or base.api_key,
            ca_pem=read_ca(Path(ca_file)) if ca_file else base.ca_pem,
            project=environment.get("MOORAGE_PROJECT") or base.project,
        )

    @property
    def project(self) -> str:
        """projects/{project} to work in."""
        return project_name(self.project_option or self.context().project or DEFAULT_PROJECT)

    def parent(self, all_projects: bool = False) -> str:
        """Parent of a list request."""
        return "projects/-" if all_projects else self.project

    def name_in_project(self, collection: str, text: str) -> str:
        """The full name of an object of the project."""
        return in_project(self.project, collection, text) if not text.startswith("projects/") else text

    def run(self, work: "Callable[[Client], Coroutine[Any, Any, T]]") -> T:
        """Run a coroutine with a client. Ctrl-C, SIGTERM and SIGHUP cancel it, so that it can clean up."""
        return run_with(self.context(), work, trace_id=self.trace_id)


def run_with(context: Context, work: "Callable[[Client], Coroutine[Any, Any, T]]", *, trace_id: str = "") -> T:
    """`Session.run` for any context."""
    import asyncio
    import signal

    # grpc's own lines on stderr say nothing that our errors do not.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from moorage.client import Client

    async def body() -> T:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            try:
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
            except (RuntimeError, ValueError):
                break  # not in the main thread: whoever runs us handles signals
        ca_pem = context.ca_pem.encode() if context.ca_pem else None
        async with Client.connect(context.address, api_key=context.api_key, ca_pem=ca_pem, trace_id=trace_id) as client:
            return await work(client)

    try:
        return asyncio.run(body())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def read_ca(path: Path) -> str:
    """A PEM file.

    Raises:
        InvalidSpec: it cannot be read or holds no certificate.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidSpec.of("ca-file", f"{path} cannot be read: {exc}") from exc
    if "BEGIN CERTIFICATE" not in text:
        raise InvalidSpec.of("ca-file", f"{path} holds no certificate in PEM form")
    return text


pass_session = click.make_pass_decorator(Session, ensure=True)


def project_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--project` on the command itself, as people write it there more often than on the root."""

    def remember(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.ensure_object(Session).project_option = value

    return click.option("--project", metavar="NAME", expose_value=False, callback=remember, help="Project to work in.")(
        function
    )
