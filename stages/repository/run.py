# SPDX-License-Identifier: Apache-2.0
"""Sign our own packages and make a signed index of them for each architecture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, "/src")

from pipeline.apk.format.index import entry_of, write_index
from pipeline.apk.format.package import sign_package
from pipeline.apk.format.signature import Signer
from pipeline.base.errors import FactoryError


def main() -> None:
    """Write /out/<arch>/{APKINDEX.tar.gz,*.apk}: the shape that apk asks a repository to have."""
    packages = sorted(Path("/in/packages").glob("*.apk"))
    if not packages:
        sys.exit("error: input packages: there is no package")
    options = json.loads(Path("/stage-options/options.json").read_text())
    signer = Signer(Path("/run/secrets/signing-key"), options["signing_key_name"])
    for arch in options["architectures"]:
        folder = Path("/out") / arch
        folder.mkdir()
        entries = []
        for package in packages:
            signed = folder / package.name
            with package.open("rb") as stream, signed.open("wb") as out:
                sign_package(stream, out, signer, name=package.name)
            # apk looks in the folder of the architecture that the index names, also for what runs everywhere.
            entries.append(entry_of(signed, arch=arch))
        with (folder / "APKINDEX.tar.gz").open("wb") as out:
            write_index(out, f"TowerOS {options['version']}", entries, signer, options["epoch"])


try:
    main()
except FactoryError as error:
    sys.exit(f"error: {error}")
