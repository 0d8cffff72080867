# SPDX-License-Identifier: Apache-2.0
"""The software bill of materials of an image, as CycloneDX JSON, made from the manifest by CycloneDX's library.

The serial number comes from the image's digest and the time is the channel's epoch, so equal images give equal bytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

CHECKSUM: Final = "tower:apk:checksum"
"""The property with a package's checksum as apk's database has it."""
ORIGIN: Final = "tower:origin"
"""The property that says where a package comes from: `alpine 3.23.6`, `debian trixie`, `ours`."""
_SPACE: Final = uuid.UUID("1a1ce2e5-9f6c-5d3c-8a5e-2a1c1b8d6d10")


def sbom_of(manifest: Mapping[str, Any]) -> bytes:
    """Return CycloneDX 1.6 JSON for the image that the manifest describes."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    name, digest = str(manifest["image"]), str(manifest["files"][manifest["image"]]["sha256"])
    image = Component(
        name=name,
        version=str(manifest["version"]),
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=f"image:{name}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )
    parts = [_component(row) for row in manifest["packages"]]
    bom = Bom(
        components=parts,
        serial_number=uuid.uuid5(_SPACE, digest),
        metadata=BomMetaData(component=image, timestamp=datetime.fromtimestamp(manifest["channel"]["epoch"], UTC)),
    )
    bom.register_dependency(image, parts)
    return JsonV1Dot6(bom).output_as_string(indent=1).encode() + b"\n"


def _component(row: Mapping[str, str]) -> Component:
    """Return the component of a package; its hash is that of the package's file."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    url = PackageURL("apk", "alpine", row["name"], row["version"], {"arch": row["arch"]})
    return Component(
        name=row["name"],
        version=row["version"],
        type=ComponentType.LIBRARY,
        purl=url,
        bom_ref=url.to_string(),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=row["sha256"])],
        properties=[Property(name=CHECKSUM, value=row["checksum"]), Property(name=ORIGIN, value=row["origin"])],
    )
