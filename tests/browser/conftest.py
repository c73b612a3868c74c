"""A Chromium that is there, and pages opened in it that must neither complain nor reach for the network."""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from bench.report import Report, html


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    path = os.environ.get("BENCH_CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.fail("no Chromium is named by BENCH_CHROMIUM; run these tests with: nox -s browser", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, tmp_path) -> Iterator[Callable[..., object]]:
    """The page of a report, opened from disk; at the end nothing may have been said, asked or fetched."""
    said, fetched, contexts = [], [], []

    def open_(report: Report, width: int = 1280, **options: object) -> object:
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(html.render(report), encoding="utf-8")
        contexts.append(chromium.new_context(viewport={"width": width, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_function("table.initialized")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []
    # What a page carries in itself goes over no network.
    assert [url for url in fetched if not url.startswith(("data:", "blob:"))] == [
        (tmp_path / f"{number}.html").as_uri() for number in range(len(contexts))
    ]
