"""Which image a cartridge runs."""

import re

from paas_adapter.documents.cartridge import Cartridge, Provider
from paas_adapter.documents.places import Findings, Place
from paas_adapter.documents.scalars import property_map
from paas_adapter.mapping.model import Image, Template
from paas_adapter.mapping.names import unique_name
from paas_adapter.mapping.settings import Settings

#: Providers whose imageId is an image of a registry, the best first.
CONTAINER_PROVIDERS = ("docker", "kubernetes", "mock")
PULL_POLICY = "IMAGE_PULL_POLICY"
PULL_SECRETS = "IMAGE_PULL_SECRETS"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?\Z"
)
_TEMPLATE_LIMIT = 63


def is_reference(text: str) -> bool:
    """Whether a registry could have it."""
    return len(text) <= 512 and bool(_REFERENCE.match(text))


def _chosen(cartridge: Cartridge, settings: Settings) -> tuple[str, Place] | None:
    """Reference and where it was found: the operator's word, else the best provider's."""
    named = settings.images.get(cartridge.type)
    if named:
        return named, cartridge.at.below("type")
    for provider in cartridge.providers:
        named = settings.images.get(provider.image_id) if provider.image_id else None
        if named:
            return named, provider.at.below("imageId")
    ranked: list[Provider] = [
        provider for kind in CONTAINER_PROVIDERS for provider in cartridge.providers if provider.type.lower() == kind
    ]
    for provider in ranked:
        if is_reference(provider.image_id):
            return provider.image_id, provider.at.below("imageId")
    return None


def _pull(cartridge: Cartridge, findings: Findings) -> tuple[bool, str]:
    properties = property_map(cartridge.properties)
    policy, secret = properties.get(PULL_POLICY), properties.get(PULL_SECRETS)
    if policy is not None and policy.value not in ("", "Always", "IfNotPresent", "Never"):
        message = "one of Always, IfNotPresent, Never is expected here"
        findings.refuse(policy.at.below("value"), "BAD_VALUE", message)
    return policy is not None and policy.value == "Always", secret.value.strip() if secret else ""


def template_of(cartridge: Cartridge, settings: Settings, findings: Findings) -> Template | None:
    """The template of a cartridge; None after a problem."""
    looked_up, credentials = _pull(cartridge, findings)
    chosen = _chosen(cartridge, settings)
    if chosen is None or not is_reference(chosen[0]):
        place = chosen[1] if chosen else cartridge.at.below("iaasProvider")
        kinds = ", ".join(dict.fromkeys(provider.type for provider in cartridge.providers)) or "none"
        message = (
            f"the image map has {chosen[0]} for it, which is no image"
            if chosen
            else f"no image of a container is named (providers: {kinds}); name one for {cartridge.type} in the image map"
        )
        findings.refuse(place, "NO_IMAGE", message)
        return None
    image = Image(chosen[0], looked_up, credentials, chosen[1])
    name = unique_name(cartridge.type, f"{image.reference} {credentials}", _TEMPLATE_LIMIT)
    return Template(name, image)
