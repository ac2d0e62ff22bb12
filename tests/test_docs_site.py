"""The documentation site, opened from the disk."""

import re
import shutil
import time
from pathlib import Path

import pytest

from tests.browser import Browser, needs_chromium

ROOT = Path(__file__).resolve().parent.parent


@needs_chromium
@pytest.mark.browser
@pytest.mark.slow
def test_site_search_from_the_disk(tmp_path: Path) -> None:
    """A page without a server gets a worker, and the site names no script of the network."""
    (script,) = re.findall(r"polyfills: \[(.+?)\]", (ROOT / "mkdocs.yml").read_text())
    shutil.copy(ROOT / "docs" / script, tmp_path / "shim.js")
    (tmp_path / "worker.js").write_text('addEventListener("message", (event) => postMessage(event.data + 1))')
    page = tmp_path / "page.html"
    page.write_text(
        '<body><script src="shim.js"></script><script>const worker = new Worker("worker.js")\n'
        'worker.addEventListener("message", (event) => (window.answer = event.data)); worker.postMessage(41)</script>'
    )
    with Browser(tmp_path) as browser:
        browser.open(page)
        end = time.monotonic() + 20
        while (answer := browser.run("window.answer")) is None and time.monotonic() < end:
            time.sleep(0.05)
        assert answer == 42
        assert browser.messages == []
