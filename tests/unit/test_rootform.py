# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import tarfile
from pathlib import Path

from pipeline.sandbox.rootform import one_form


def test_a_link_that_sorts_before_its_file(tmp_path: Path) -> None:
    """A real root has one: /etc/terminfo/v/vt200 is another name of vt220."""
    with tarfile.open(tmp_path / "plain.tar", "w") as tar:
        info = tarfile.TarInfo("./v/vt220")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"term"))
        for name in ("./v/vt200", "./v/vt300"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, "./v/vt220"
            tar.addfile(link)
    one_form(tmp_path / "plain.tar", tmp_path / "made.tar", 50, left_out=lambda path: path == "x", folders={"dev": 0o755})
    with tarfile.open(tmp_path / "made.tar") as tar:
        rows = [(info.name, info.linkname, info.size) for info in tar if info.name.startswith("v/")]
        assert rows == [("v/vt200", "", 4), ("v/vt220", "v/vt200", 0), ("v/vt300", "v/vt200", 0)]
        content = tar.extractfile("v/vt300")
        assert content is not None
        assert content.read() == b"term"
