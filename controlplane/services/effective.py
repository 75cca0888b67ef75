"""What an instance runs in the end: its own wishes over the template's defaults. The image's own defaults are Docker's affair."""

from dataclasses import fields, replace

from controlplane.domain.containers import ContainerDefaults, Resources, RestartMode, RestartPolicy
from controlplane.domain.instances import InstanceSpec
from controlplane.domain.probes import Probe, Probes

DEFAULT_GRACE_SECONDS = 10.0
DEFAULT_LOG_BYTES = 10 * 1024 * 1024
DEFAULT_LOG_FILES = 3
DEFAULT_RESTART = RestartPolicy(RestartMode.ALWAYS, 0.5, 60.0, 60.0, 0)
#: Of what is asked and when, only when. A process has a minute to start.
DEFAULT_PROBE = Probe(period_seconds=10.0, timeout_seconds=3.0, failure_threshold=3, success_threshold=1)
DEFAULT_STARTUP = replace(DEFAULT_PROBE, period_seconds=1.0, failure_threshold=60)


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
        probes=Probes(
            startup=_probe(spec.probes.startup, DEFAULT_STARTUP),
            liveness=_probe(spec.probes.liveness, DEFAULT_PROBE),
            readiness=_probe(spec.probes.readiness, DEFAULT_PROBE),
        ),
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


def _probe(own: Probe | None, default: Probe) -> Probe | None:
    """A probe with nothing left open."""
    if own is None:
        return None
    return replace(
        own,
        http=None if own.http is None else replace(own.http, path=own.http.path or "/"),
        period_seconds=own.period_seconds or default.period_seconds,
        timeout_seconds=own.timeout_seconds or default.timeout_seconds,
        failure_threshold=own.failure_threshold or default.failure_threshold,
        success_threshold=own.success_threshold or default.success_threshold,
    )
