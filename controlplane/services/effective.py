"""What an instance runs in the end: its own wishes over the template's defaults. The image's own defaults are Docker's affair."""

from dataclasses import fields, replace

from controlplane.domain.containers import ContainerDefaults, Resources, RestartMode, RestartPolicy
from controlplane.domain.instances import InstanceSpec

DEFAULT_GRACE_SECONDS = 10.0
DEFAULT_LOG_BYTES = 10 * 1024 * 1024
DEFAULT_LOG_FILES = 3
DEFAULT_RESTART = RestartPolicy(RestartMode.ALWAYS, 0.5, 60.0, 60.0, 0)


def effective_spec(spec: InstanceSpec, defaults: ContainerDefaults, instance_id: str) -> InstanceSpec:
    """The spec with nothing left open but what the image itself decides."""
    return replace(
        spec,
        command=spec.command or (defaults.command if spec.entrypoint is None else ()),
        entrypoint=spec.entrypoint if spec.entrypoint is not None else defaults.entrypoint,
        env={**defaults.env, **spec.env},
        user=spec.user or defaults.user,
        workdir=spec.workdir or defaults.workdir,
        hostname=spec.hostname or instance_id,
        resources=_resources(spec.resources, defaults.resources),
        health_check=spec.health_check or defaults.health_check,
        stop_grace_seconds=DEFAULT_GRACE_SECONDS if spec.stop_grace_seconds is None else spec.stop_grace_seconds,
        restart=_restart(spec.restart),
        log_max_bytes=spec.log_max_bytes or DEFAULT_LOG_BYTES,
        log_max_files=spec.log_max_files or DEFAULT_LOG_FILES,
        published_ports=tuple(replace(port, protocol=port.protocol or "tcp") for port in spec.published_ports),
    )


def _resources(own: Resources, defaults: Resources) -> Resources:
    """Each amount: the instance's own, else the template's."""
    return Resources(**{f.name: getattr(own, f.name) or getattr(defaults, f.name) for f in fields(Resources)})


def _restart(policy: RestartPolicy) -> RestartPolicy:
    return RestartPolicy(
        DEFAULT_RESTART.mode if policy.mode is RestartMode.UNSPECIFIED else policy.mode,
        policy.initial_seconds or DEFAULT_RESTART.initial_seconds,
        policy.max_seconds or DEFAULT_RESTART.max_seconds,
        policy.reset_after_seconds or DEFAULT_RESTART.reset_after_seconds,
        policy.max_restarts,
    )
