"""GPUs as `nvidia-smi` lists them. Pure."""

from hostagent.domain import DeviceWay, FoundDevice

KIND = "nvidia.com/gpu"
QUERY = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")


def nvidia_devices(text: str) -> tuple[FoundDevice, ...]:
    """The devices of QUERY's output, by their serials. Lines that are something else, such as a warning, are passed over."""
    found: list[FoundDevice] = []
    for line in text.splitlines():
        index, _, uuid = (part.strip() for part in line.partition(","))
        if index.isdecimal() and uuid.startswith("GPU-"):
            found.append(FoundDevice(KIND, (uuid, index), (DeviceWay("nvidia", (uuid,)),)))
    return tuple(found)
