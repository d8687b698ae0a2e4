"""Write docs/report.png and docs/report-phone.png from a study's report.html: `make screenshots STUDY=runs/starter`.

Needs playwright, and Chromium: the system's, or the one that `playwright install chromium` downloads.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent.parent / "docs"
SIZES = {"report.png": (1280, 1140), "report-phone.png": (390, 844)}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="folder with report.html")
    page = parser.parse_args().study.resolve() / "report.html"
    if not page.is_file():
        parser.error(f"{page} does not exist: write it with `aerogel report {page.parent}`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, (width, height) in SIZES.items():
            tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
            tab.goto(page.as_uri())
            tab.screenshot(path=DOCS / name)
            print(DOCS / name)
        browser.close()


if __name__ == "__main__":
    main()
