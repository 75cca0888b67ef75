"""The permission table: every method of the API and who may call it. The only place that says so.

A method that is not here is refused, and a test made from the protos fails until it is. Choices that are not obvious:
- Hosts are the fleet's affair, as in other clouds: a tenant sees the names of hosts only where its own instances are.
- Logs and figures are reading; exec, copies and forwarded ports enter the instance and need an operator, copies out
  included.
- Quota and policy of a project are fields of UpdateProject, so the whole method is the fleet admins'.
- AUTHENTICATED methods show each caller only what is theirs; the services see to that (`visible_projects`,
  `keys.may_see`).
- Reflection needs a key: the API is public, but an unauthenticated port should do as little as possible.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from controlplane.access.roles import Role
from controlplane.access.rules import AGENT, AUTHENTICATED, FLEET_ADMIN, PUBLIC, ParentScope, Rule, project_rule
from moorage.errors import Forbidden

_VIEWER, _OPERATOR, _ADMIN = Role.VIEWER, Role.OPERATOR, Role.ADMIN
_MOORAGE: Final = "moorage.v1."

_SERVICES: Final[Mapping[str, Mapping[str, Rule]]] = {
    "grpc.health.v1.Health": {"Check": PUBLIC, "Watch": PUBLIC, "List": PUBLIC},
    "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": AUTHENTICATED},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": AUTHENTICATED},
    _MOORAGE + "AccessService": {
        "CreateApiKey": AUTHENTICATED,  # keys.require_may_create
        "ListApiKeys": AUTHENTICATED,
        "DeleteApiKey": AUTHENTICATED,  # keys.may_see
        "GetCaller": AUTHENTICATED,
    },
    _MOORAGE + "AgentService": {
        "Session": AGENT,
        "OpenStream": AGENT,
        "RenewCertificate": AGENT,
        "IssueRegistryToken": AGENT,
        "FetchBuildContext": AGENT,
        "FetchSecrets": AGENT,
    },
    # Viewers read configs, and of secrets everything but the bytes.
    _MOORAGE + "ConfigService": {
        "CreateConfig": project_rule(_OPERATOR, "parent"),
        "GetConfig": project_rule(_VIEWER, "name"),
        "ListConfigs": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "UpdateConfig": project_rule(_OPERATOR, "config.name"),
        "DeleteConfig": project_rule(_OPERATOR, "name"),
        "AddConfigVersion": project_rule(_OPERATOR, "parent"),
        "ListConfigVersions": project_rule(_VIEWER, "parent"),
        "EnableConfigVersion": project_rule(_OPERATOR, "name"),
        "DisableConfigVersion": project_rule(_OPERATOR, "name"),
        "DestroyConfigVersion": project_rule(_OPERATOR, "name"),
        "GetConfigVersion": project_rule(_VIEWER, "name"),
    },
    _MOORAGE + "DnsService": {
        "CreateDnsRecord": project_rule(_OPERATOR, "parent"),
        "GetDnsRecord": project_rule(_VIEWER, "name"),
        "ListDnsRecords": project_rule(_VIEWER, "parent"),
        "UpdateDnsRecord": project_rule(_OPERATOR, "dns_record.name"),
        "DeleteDnsRecord": project_rule(_OPERATOR, "name"),
    },
    _MOORAGE + "EnrollmentService": {
        "CreateJoinToken": FLEET_ADMIN,
        "ListJoinTokens": FLEET_ADMIN,
        "RevokeJoinToken": FLEET_ADMIN,
        "GetAuthority": PUBLIC,
        "EnrollHost": PUBLIC,  # proves itself by its join token
    },
    _MOORAGE + "EventService": {
        "ListEvents": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY_OR_FLEET),
        "ListAuditEvents": FLEET_ADMIN,
    },
    _MOORAGE + "GroupService": {
        "CreateGroup": project_rule(
            _OPERATOR,
            "parent",
            "group.spec.instance.template",
            "group.spec.instance.nics.network",
            "group.spec.instance.nics.security_groups",
            "group.spec.instance.secrets.secret",
            "group.spec.instance.configs.config",
            "group.spec.instance.volumes.volume",
            "group.spec.depends_on.target",
        ),
        "GetGroup": project_rule(_VIEWER, "name"),
        "ListGroups": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "UpdateGroup": project_rule(
            _OPERATOR,
            "group.name",
            "group.spec.instance.template",
            "group.spec.instance.nics.network",
            "group.spec.instance.nics.security_groups",
            "group.spec.instance.secrets.secret",
            "group.spec.instance.configs.config",
            "group.spec.instance.volumes.volume",
            "group.spec.depends_on.target",
        ),
        "DeleteGroup": project_rule(_OPERATOR, "name"),
        "UndeleteGroup": project_rule(_OPERATOR, "name"),
        "ScaleGroup": project_rule(_OPERATOR, "name"),
        "PlanGroup": project_rule(
            _VIEWER,
            "name",
            "group.spec.instance.template",
            "group.spec.instance.nics.network",
            "group.spec.instance.nics.security_groups",
            "group.spec.instance.secrets.secret",
            "group.spec.instance.configs.config",
            "group.spec.instance.volumes.volume",
            "group.spec.depends_on.target",
        ),
        "PauseGroup": project_rule(_OPERATOR, "name"),
        "ResumeGroup": project_rule(_OPERATOR, "name"),
        "PromoteGroup": project_rule(_OPERATOR, "name"),
        "RollbackGroup": project_rule(_OPERATOR, "name"),
        "ListGroupRevisions": project_rule(_VIEWER, "parent"),
    },
    _MOORAGE + "JobService": {
        "CreateJob": project_rule(
            _OPERATOR,
            "parent",
            "job.spec.instance.template",
            "job.spec.instance.nics.network",
            "job.spec.instance.nics.security_groups",
            "job.spec.instance.volumes.volume",
            "job.spec.depends_on.target",
        ),
        "GetJob": project_rule(_VIEWER, "name"),
        "ListJobs": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "UpdateJob": project_rule(_OPERATOR, "job.name"),
        "DeleteJob": project_rule(_OPERATOR, "name"),
    },
    _MOORAGE + "CronJobService": {
        "CreateCronJob": project_rule(
            _OPERATOR,
            "parent",
            "cron_job.spec.job.instance.template",
            "cron_job.spec.job.instance.nics.network",
            "cron_job.spec.job.instance.nics.security_groups",
            "cron_job.spec.job.instance.volumes.volume",
            "cron_job.spec.job.depends_on.target",
        ),
        "GetCronJob": project_rule(_VIEWER, "name"),
        "ListCronJobs": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "UpdateCronJob": project_rule(
            _OPERATOR,
            "cron_job.name",
            "cron_job.spec.job.instance.template",
            "cron_job.spec.job.instance.nics.network",
            "cron_job.spec.job.instance.nics.security_groups",
            "cron_job.spec.job.instance.volumes.volume",
            "cron_job.spec.job.depends_on.target",
        ),
        "DeleteCronJob": project_rule(_OPERATOR, "name"),
        "RunCronJob": project_rule(_OPERATOR, "name"),
    },
    _MOORAGE + "HostService": {
        "ListHosts": FLEET_ADMIN,
        "GetHost": FLEET_ADMIN,
        "UpdateHost": FLEET_ADMIN,
        "CordonHost": FLEET_ADMIN,
        "UncordonHost": FLEET_ADMIN,
        "DrainHost": FLEET_ADMIN,
        "RebalanceHosts": FLEET_ADMIN,
        "DeleteHost": FLEET_ADMIN,
        "DeclareHostLost": FLEET_ADMIN,
        "ReleaseSweepBrake": FLEET_ADMIN,
    },
    _MOORAGE + "InstanceService": {
        "CreateInstance": project_rule(
            _OPERATOR,
            "parent",
            "instance.spec.template",
            "instance.spec.nics.network",
            "instance.spec.nics.security_groups",
            "instance.spec.secrets.secret",
            "instance.spec.configs.config",
            "instance.spec.volumes.volume",
        ),
        "BatchCreateInstances": project_rule(
            _OPERATOR,
            "parent",
            "requests.parent",
            "requests.instance.spec.template",
            "requests.instance.spec.nics.network",
            "requests.instance.spec.nics.security_groups",
            "requests.instance.spec.secrets.secret",
            "requests.instance.spec.configs.config",
            "requests.instance.spec.volumes.volume",
        ),
        "GetInstance": project_rule(_VIEWER, "name"),
        "ListInstances": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "UpdateInstance": project_rule(
            _OPERATOR,
            "instance.name",
            "instance.spec.template",
            "instance.spec.nics.network",
            "instance.spec.nics.security_groups",
            "instance.spec.secrets.secret",
            "instance.spec.configs.config",
            "instance.spec.volumes.volume",
        ),
        "DeleteInstance": project_rule(_OPERATOR, "name"),
        "UndeleteInstance": project_rule(_OPERATOR, "name"),
        "BatchDeleteInstances": project_rule(_OPERATOR, "parent", "names"),
        "StartInstance": project_rule(_OPERATOR, "name"),
        "StopInstance": project_rule(_OPERATOR, "name"),
        "RebootInstance": project_rule(_OPERATOR, "name"),
        "ReplaceInstance": project_rule(
            _OPERATOR,
            "name",
            "spec.template",
            "spec.nics.network",
            "spec.nics.security_groups",
            "spec.secrets.secret",
            "spec.configs.config",
            "spec.volumes.volume",
        ),
        "RenameInstance": project_rule(_OPERATOR, "name"),
        "PauseInstance": project_rule(_OPERATOR, "name"),
        "UnpauseInstance": project_rule(_OPERATOR, "name"),
    },
    _MOORAGE + "InstanceStreamService": {
        "StreamLogs": project_rule(_VIEWER, "name"),
        "StreamStats": project_rule(_VIEWER, "name"),
        "ExecInstance": project_rule(_OPERATOR, "start.name"),
        "CopyIn": project_rule(_OPERATOR, "target.name"),
        "CopyOut": project_rule(_OPERATOR, "name"),
        "ForwardPort": project_rule(_OPERATOR, "start.name"),
    },
    _MOORAGE + "NetworkService": {
        "CreateNetwork": project_rule(_OPERATOR, "parent"),
        "GetNetwork": project_rule(_VIEWER, "name"),
        "ListNetworks": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "UpdateNetwork": project_rule(_OPERATOR, "network.name"),
        "DeleteNetwork": project_rule(_OPERATOR, "name"),
        "ListAddresses": project_rule(_VIEWER, "parent"),
    },
    _MOORAGE + "OperationService": {
        "GetOperation": project_rule(_VIEWER, "name"),
        "ListOperations": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "WaitOperation": project_rule(_VIEWER, "name"),
        "CancelOperation": project_rule(_OPERATOR, "name"),
    },
    _MOORAGE + "ProjectService": {
        "CreateProject": FLEET_ADMIN,
        "GetProject": project_rule(_VIEWER, "name"),
        "ListProjects": AUTHENTICATED,
        "UpdateProject": FLEET_ADMIN,
        "DeleteProject": FLEET_ADMIN,
        "SetMember": project_rule(_ADMIN, "member.name"),
        "DeleteMember": project_rule(_ADMIN, "name"),
        "ListMembers": project_rule(_VIEWER, "parent"),
    },
    _MOORAGE + "PublicAddressService": {
        "CreatePublicAddress": project_rule(_OPERATOR, "parent", "public_address.spec.network"),
        "GetPublicAddress": project_rule(_VIEWER, "name"),
        "ListPublicAddresses": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "UpdatePublicAddress": project_rule(_OPERATOR, "public_address.name"),
        "DeletePublicAddress": project_rule(_OPERATOR, "name"),
    },
    # The names inside of rules are short or of the router's project: the service reads no others.
    _MOORAGE + "BalancerService": {
        "CreateBalancer": project_rule(_OPERATOR, "parent"),
        "GetBalancer": project_rule(_VIEWER, "name"),
        "ListBalancers": project_rule(_VIEWER, "parent"),
        "UpdateBalancer": project_rule(_OPERATOR, "balancer.name"),
        "DeleteBalancer": project_rule(_OPERATOR, "name"),
        "GetBalancerStatistics": project_rule(_VIEWER, "name"),
    },
    _MOORAGE + "RouterRuleService": {
        "CreateRouterRule": project_rule(_OPERATOR, "parent"),
        "BatchCreateRouterRules": project_rule(_OPERATOR, "parent", "requests.parent"),
        "GetRouterRule": project_rule(_VIEWER, "name"),
        "ListRouterRules": project_rule(_VIEWER, "parent"),
        "UpdateRouterRule": project_rule(_OPERATOR, "rule.name"),
        "DeleteRouterRule": project_rule(_OPERATOR, "name"),
        "BatchDeleteRouterRules": project_rule(_OPERATOR, "parent", "names"),
        "ListRuleCounters": project_rule(_VIEWER, "parent"),
    },
    # The template may be the project system's; the service sees to it.
    _MOORAGE + "RouterService": {
        "CreateRouter": project_rule(_OPERATOR, "parent", "router.spec.legs.network", "router.spec.outside_network"),
        "GetRouter": project_rule(_VIEWER, "name"),
        "ListRouters": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "UpdateRouter": project_rule(_OPERATOR, "router.name", "router.spec.legs.network"),
        "DeleteRouter": project_rule(_OPERATOR, "name"),
    },
    _MOORAGE + "SecretService": {
        "CreateSecret": project_rule(_OPERATOR, "parent"),
        "GetSecret": project_rule(_VIEWER, "name"),
        "ListSecrets": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "UpdateSecret": project_rule(_OPERATOR, "secret.name"),
        "DeleteSecret": project_rule(_OPERATOR, "name"),
        "AddSecretVersion": project_rule(_OPERATOR, "parent"),
        "ListSecretVersions": project_rule(_VIEWER, "parent"),
        "EnableSecretVersion": project_rule(_OPERATOR, "name"),
        "DisableSecretVersion": project_rule(_OPERATOR, "name"),
        "DestroySecretVersion": project_rule(_OPERATOR, "name"),
        "AccessSecretVersion": project_rule(_OPERATOR, "name"),
        "RekeySecrets": FLEET_ADMIN,
    },
    _MOORAGE + "SecurityGroupService": {
        "CreateSecurityGroup": project_rule(_OPERATOR, "parent", "security_group.spec.rules.group"),
        "GetSecurityGroup": project_rule(_VIEWER, "name"),
        "ListSecurityGroups": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "UpdateSecurityGroup": project_rule(_OPERATOR, "security_group.name", "security_group.spec.rules.group"),
        "DeleteSecurityGroup": project_rule(_OPERATOR, "name"),
    },
    _MOORAGE + "TemplateService": {
        "CreateTemplate": project_rule(_OPERATOR, "parent", "template.source.snapshot.instance"),
        "UploadTemplate": project_rule(_OPERATOR, "create.parent", "create.template.source.snapshot.instance"),
        "GetTemplate": project_rule(_VIEWER, "name"),
        "ListTemplates": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "UpdateTemplate": project_rule(_OPERATOR, "template.name"),
        "DeleteTemplate": project_rule(_OPERATOR, "name"),
    },
    _MOORAGE + "VolumeService": {
        "CreateVolume": project_rule(_OPERATOR, "parent", "volume.spec.source"),
        "GetVolume": project_rule(_VIEWER, "name"),
        "ListVolumes": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
        "UpdateVolume": project_rule(_OPERATOR, "volume.name"),
        "DeleteVolume": project_rule(_OPERATOR, "name"),
        "UndeleteVolume": project_rule(_OPERATOR, "name"),
        "CreateVolumeSnapshot": project_rule(_OPERATOR, "parent"),
        "GetVolumeSnapshot": project_rule(_VIEWER, "name"),
        "ListVolumeSnapshots": project_rule(_VIEWER, "parent"),
        "DeleteVolumeSnapshot": project_rule(_OPERATOR, "name"),
        "RestoreVolumeSnapshot": project_rule(_OPERATOR, "name"),
        "BackupVolume": project_rule(_OPERATOR, "name"),
        "RestoreVolume": project_rule(_OPERATOR, "start.name"),
    },
    _MOORAGE + "UsageService": {
        "QueryUsage": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY),
    },
    _MOORAGE + "WatchService": {
        "Watch": project_rule(_VIEWER, "parent", scope=ParentScope.EVERY_OR_EMPTY),
    },
    _MOORAGE + "ZoneService": {
        "CreateZone": FLEET_ADMIN,
        "GetZone": AUTHENTICATED,
        "ListZones": AUTHENTICATED,
        "UpdateZone": FLEET_ADMIN,
        "DeleteZone": FLEET_ADMIN,
    },
}

#: Full gRPC method, such as `/moorage.v1.InstanceService/GetInstance`, to its rule.
TABLE: Final[Mapping[str, Rule]] = MappingProxyType(
    {f"/{service}/{method}": rule for service, methods in _SERVICES.items() for method, rule in methods.items()}
)


def rule_for(method: str) -> Rule:
    """The rule of a full gRPC method.

    Raises:
        Forbidden: METHOD_UNKNOWN, the table does not have it.
    """
    rule = TABLE.get(method)
    if rule is None:
        raise Forbidden(f"{method[:200]} is not a method of this API", reason="METHOD_UNKNOWN")
    return rule
