"""TemplateService."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from controlplane.api import convert, masks, requests
from controlplane.api.caller import current_user
from controlplane.domain.containers import ContainerDefaults
from controlplane.domain.names import parse_child
from controlplane.domain.templates import TemplateSource
from controlplane.services.templates import NewTemplate, TemplateService
from controlplane.templates.runner import TemplateRunner
from moorage import protoconv
from moorage.errors import InvalidSpec
from moorage.v1 import operations_pb2, templates_pb2, templates_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]

_CHANGEABLE = ("description", "labels", "defaults")


def _wanted(request: templates_pb2.CreateTemplateRequest) -> NewTemplate:
    template = request.template
    return NewTemplate(
        request.template_id,
        protoconv.from_proto(TemplateSource, template.source),
        template.description,
        dict(template.labels),
        protoconv.from_proto(ContainerDefaults, template.defaults),
    )


async def _chunks(requests_: AsyncIterator[templates_pb2.UploadTemplateRequest]) -> AsyncIterator[bytes]:
    async for request in requests_:
        if request.WhichOneof("part") != "chunk":
            raise InvalidSpec.of("part", "only the first message may be other than a chunk", "STREAM_INVALID")
        yield request.chunk


class TemplateServicer(templates_pb2_grpc.TemplateServiceServicer):
    """Images with defaults."""

    def __init__(self, templates: TemplateService, runner: TemplateRunner) -> None:
        self._templates = templates
        self._runner = runner

    async def CreateTemplate(
        self, request: templates_pb2.CreateTemplateRequest, context: _Context
    ) -> operations_pb2.Operation:
        operation, is_new = await self._templates.create(
            requests.parent_of(request),
            _wanted(request),
            current_user().user,
            validate_only=request.validate_only,
            **requests.retry("CreateTemplate", request),
        )
        if is_new:
            self._runner.begin(operation)
        return convert.operation(operation)

    async def UploadTemplate(
        self, request_iterator: AsyncIterator[templates_pb2.UploadTemplateRequest], context: _Context
    ) -> operations_pb2.Operation:
        first = await anext(request_iterator)
        if first.WhichOneof("part") != "create":
            raise InvalidSpec.of("create", "the first message must be the request", "STREAM_INVALID")
        request = first.create
        operation, is_new = await self._templates.create(
            requests.parent_of(request),
            _wanted(request),
            current_user().user,
            is_upload=True,
            validate_only=request.validate_only,
            **requests.retry("UploadTemplate", request),
        )
        if is_new:
            await self._runner.receive(operation, _chunks(request_iterator))
        return convert.operation(operation)

    async def GetTemplate(self, request: templates_pb2.GetTemplateRequest, context: _Context) -> templates_pb2.Template:
        return convert.template(self._templates.get(*parse_child(request.name, "templates")))

    async def ListTemplates(
        self, request: templates_pb2.ListTemplatesRequest, context: _Context
    ) -> templates_pb2.ListTemplatesResponse:
        page = self._templates.list(requests.parent_of(request), requests.page(request), requests.visible())
        return templates_pb2.ListTemplatesResponse(
            templates=[convert.template(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateTemplate(
        self, request: templates_pb2.UpdateTemplateRequest, context: _Context
    ) -> templates_pb2.Template:
        template = request.template
        paths = masks.paths(request.update_mask, template, _CHANGEABLE, "a template")
        defaults = protoconv.from_proto(ContainerDefaults, template.defaults)
        record = await self._templates.update(
            *parse_child(template.name, "templates", "template.name"),
            description=template.description if "description" in paths else None,
            labels=dict(template.labels) if "labels" in paths else None,
            defaults=defaults if "defaults" in paths else None,
            etag=template.etag,
            validate_only=request.validate_only,
        )
        return convert.template(record)

    async def DeleteTemplate(
        self, request: templates_pb2.DeleteTemplateRequest, context: _Context
    ) -> templates_pb2.DeleteTemplateResponse:
        template = await self._templates.delete(*parse_child(request.name, "templates"), etag=request.etag)
        self._runner.remove(template)
        return templates_pb2.DeleteTemplateResponse()
